use super::*;

fn state() -> InstallationState {
    InstallationState {
        version: VERSION,
        exported_at: DateTime::from_timestamp(1_795_401_000, 0).unwrap(),
        exported_from: "a test".to_owned(),
        runs_left_out: false,
        values: vec![StateValue {
            key: "watermark".to_owned(),
            value: serde_json::from_str("{\"at\": 1}").unwrap(),
        }],
        runs: Vec::new(),
        dead: Vec::new(),
    }
}

#[test]
fn a_file_that_is_not_what_was_written_is_refused() {
    let file = state().encode().unwrap();
    assert_eq!(InstallationState::decode(&file).unwrap().amount().values, 1);
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert!(InstallationState::decode(&damaged).is_err(), "byte {at}");
        assert!(
            InstallationState::decode(&file[..at]).is_err(),
            "cut at {at}"
        );
    }
    let newer = InstallationState {
        version: 2,
        ..state()
    };
    let error = InstallationState::decode(&newer.encode().unwrap()).unwrap_err();
    let text = "it has version 2, and this one reads 1";
    assert_eq!(error, NotAState::Version(text.to_owned()));
}
