//! Who jobs run as.

use super::{job, only_error};

const DEFAULTS: &str = "[defaults]\nrun_as = \"crawler\"\n";

#[test]
fn a_job_has_the_user_of_the_defaults_or_its_own() {
    let of = |lines: &str| {
        let job = job(&format!("{DEFAULTS}[job.x]\n{lines}\n"), "x");
        job.spec.run_as.map(|user| user.to_string())
    };
    assert_eq!(of("shell = \"true\""), Some("crawler".to_owned()));
    let own = "command = [\"true\"]\nrun_as = \"www-data\"";
    assert_eq!(of(own), Some("www-data".to_owned()));
    // The defaults are about programs.
    assert_eq!(of("http = { url = \"http://127.0.0.1/\" }"), None);
}

#[test]
fn a_request_is_nobody_elses() {
    let text = "[job.x]\nhttp = { url = \"http://127.0.0.1/\" }\nrun_as = \"crawler\"\n";
    let expected = "3:10 \"crawler\" | `run_as` says whose the processes of a job are; `http` starts none | remove `run_as`";
    assert_eq!(only_error(text), expected);
}

#[test]
fn the_message_has_the_user_only_if_there_is_one() {
    let json = |lines: &str| {
        let job = job(&format!("[job.x]\nshell = \"true\"\n{lines}\n"), "x");
        serde_json::to_value(job.spec).unwrap()
    };
    assert_eq!(json("run_as = \"crawler\"")["run_as"], "crawler");
    assert!(!json("").as_object().unwrap().contains_key("run_as"));
}
