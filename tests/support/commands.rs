//! Commands that are started by others.

use std::process::Command;

/// The same command, started by `front`.
pub fn behind(mut front: Command, command: &Command) -> Command {
    front.arg(command.get_program()).args(command.get_args());
    surround(&mut front, command);
    front
}

/// Gives a command the variables and the directory of another one.
pub fn surround(command: &mut Command, like: &Command) {
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = like.get_current_dir() {
        command.current_dir(directory);
    }
}
