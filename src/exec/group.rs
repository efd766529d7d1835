//! Whether anybody is left in a process group. Zombies do not count: they only wait for whoever
//! adopted them, and not every first process of a container asks after its orphans.

use std::{fs, time::Duration};

use rustix::process::{Pid, test_kill_process_group};

/// How often the group is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Every so many looks its members are looked at one by one.
const CLOSER_LOOK: u32 = 5;

/// Waits until nobody is left in `group`, whose leader was reaped.
pub(super) async fn wait_until_empty(group: Pid) {
    let mut looks = 0_u32;
    while test_kill_process_group(group).is_ok() {
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(CLOSER_LOOK) {
            let closer = tokio::task::spawn_blocking(move || has_only_zombies(group));
            if closer.await.unwrap_or(false) {
                return;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn has_only_zombies(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let mut stats = processes.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_process = entry
            .file_name()
            .as_encoded_bytes()
            .first()?
            .is_ascii_digit();
        // One that has gone in between is nobody.
        is_process.then(|| fs::read_to_string(entry.path().join("stat")).ok())?
    });
    let group = group.as_raw_nonzero().to_string();
    !stats.any(|stat| is_alive_in(&stat, &group))
}

/// Reads a line of `/proc/PID/stat`: after the name in parentheses come state, parent and group.
fn is_alive_in(stat: &str, group: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return false;
    };
    let mut fields = rest.split(' ');
    let (state, group_of) = (fields.next(), fields.nth(1));
    group_of == Some(group) && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_from_zombies_and_strangers() {
        assert!(is_alive_in("12 (sh) S 1 12 12 0 -1", "12"));
        assert!(is_alive_in("13 (a) b) Z) R 1 12 12 0 -1", "12"));
        assert!(!is_alive_in("13 (sh) Z 1 12 12 0 -1", "12"));
        assert!(!is_alive_in("13 (sh) S 12 13 12 0 -1", "12"));
        assert!(!is_alive_in("", "12"));
    }
}
