//! What a pod executes: program, arguments, environment.

use std::collections::BTreeMap;

use super::{
    super::document::{Draft, plain_argument, text, texts},
    yaml::Node,
};

/// Keys of a pod that are carried over, or mean nothing outside a cluster's bookkeeping.
const POD: [&str; 7] = [
    "containers",
    "restartPolicy",
    "activeDeadlineSeconds",
    "terminationGracePeriodSeconds",
    "dnsPolicy",
    "schedulerName",
    "initContainers",
];

/// The same of a container.
const CONTAINER: [&str; 9] = [
    "name",
    "image",
    "command",
    "args",
    "env",
    "workingDir",
    "imagePullPolicy",
    "terminationMessagePath",
    "terminationMessagePolicy",
];

/// Reads a pod's specification; gives what of it is not carried over.
pub(super) fn pod(draft: &mut Draft, pod: &Node) -> Vec<String> {
    let mut lost: Vec<String> = unknown(pod, &POD);
    let containers = pod.get("containers").map(Node::items).unwrap_or_default();
    let Some((first, others)) = containers.split_first() else {
        draft.leave_out(
            "the pod has no container",
            "a CronJob needs one in spec.jobTemplate.spec.template.spec",
        );
        return lost;
    };
    for (what, list) in [
        ("further containers", others),
        (
            "init containers",
            pod.get("initContainers")
                .map(Node::items)
                .unwrap_or_default(),
        ),
    ] {
        if !list.is_empty() {
            let names: Vec<_> = list
                .iter()
                .map(|one| one.text_of("name").unwrap_or("?"))
                .collect();
            let message = format!("{what}: {}", names.join(", "));
            draft.lose_with_help(
                message,
                "make them jobs of their own, or steps of this program",
            );
        }
    }
    lost.extend(unknown(first, &CONTAINER));
    let image = first.text_of("image").unwrap_or_default();
    draft.lose(format!(
        "the image `{image}`: its programs and files must be on the worker"
    ));
    let env = environment(draft, first);
    program(draft, first, image, &env);
    if let Some(directory) = first.text_of("workingDir") {
        draft.set("working_dir", text(directory));
    }
    for (name, value) in &env {
        draft.env(name, value);
    }
    lost
}

fn unknown(node: &Node, known: &[&str]) -> Vec<String> {
    let keys = node.keys().filter(|key| !known.contains(key));
    keys.map(str::to_owned).collect()
}

fn program(draft: &mut Draft, container: &Node, image: &str, env: &BTreeMap<String, String>) {
    let words = |key: &str| {
        let items = container.get(key).map(Node::items).unwrap_or_default();
        let words = items
            .iter()
            .map(|word| expand(word.text().unwrap_or_default(), env));
        words.collect::<Vec<_>>()
    };
    let (mut command, args) = (words("command"), words("args"));
    if command.is_empty() {
        draft.leave_out(
            "the program is the one that the image starts, which the CronJob does not name",
            "write it into `command`; or run the image, as the command below does",
        );
        command = ["docker", "run", "--rm", image].map(str::to_owned).to_vec();
    }
    let argv = command.iter().chain(&args).map(|word| plain_argument(word));
    draft.set("command", texts(argv));
}

/// The variables with their values; what comes from elsewhere is not carried over.
fn environment(draft: &mut Draft, container: &Node) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for one in container.get("env").map(Node::items).unwrap_or_default() {
        let Some(name) = one
            .text_of("name")
            .filter(|name| !name.is_empty() && !name.contains('='))
        else {
            draft.lose("a variable of the environment without a name");
            continue;
        };
        match one.get("valueFrom") {
            Some(from) => {
                let message = format!("the variable {name} {}", origin(from));
                draft.lose_with_help(
                    message,
                    "set it in `env`, or in the environment of the worker",
                );
            }
            None => {
                let value = expand(one.text_of("value").unwrap_or_default(), &env);
                env.insert(name.to_owned(), value);
            }
        }
    }
    env
}

/// Where a variable comes from: `from secretKeyRef db-credentials key password`
fn origin(from: &Node) -> String {
    let mut told = "from elsewhere".to_owned();
    for (kind, source) in from.entries() {
        told = format!("from {kind}");
        for key in ["name", "key", "fieldPath", "resource"] {
            if let Some(value) = source.text_of(key) {
                told.push_str(&format!(" {key}={value}"));
            }
        }
    }
    told
}

/// `$(NAME)` is the value of a variable that is known, `$$` a dollar sign.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, behind) = rest.split_at(at);
        expanded.push_str(before);
        let name = behind
            .strip_prefix("$(")
            .and_then(|inner| inner.split_once(')'));
        rest = match name {
            _ if behind.starts_with("$$") => {
                expanded.push('$');
                &behind[2..]
            }
            Some((name, after)) if env.contains_key(name) => {
                expanded.push_str(&env[name]);
                after
            }
            Some(_) | None => {
                expanded.push('$');
                &behind[1..]
            }
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expanded) in [
            ("x$(A)y", "x1y"),
            ("$(B) $(A", "$(B) $(A"),
            ("$$(A) $$", "$(A) $"),
            ("$A ${A}", "$A ${A}"),
            ("$", "$"),
        ] {
            assert_eq!(expand(text, &env), expanded, "{text}");
        }
    }
}
