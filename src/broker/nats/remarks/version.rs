//! What there is to say about the version of a server. Pure.

use super::remark as told;
use crate::broker::{Remark, RemarkKind};

/// Versions of these series are without known advisories from here on; later series are.
const FLOORS: [(u32, u32, u32); 2] = [(2, 11, 16), (2, 12, 7)];
/// The first series that is whole.
const SOUND: (u32, u32, u32) = (2, 14, 0);
/// Servers before this one are supported as far as they go.
const SUPPORTED: (u32, u32, u32) = (2, 10, 0);

/// Whether it is one to be used.
pub(super) fn remark(text: &str) -> Remark {
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse().ok());
    let found = (numbers.next(), numbers.next(), numbers.next());
    let (Some(major), Some(minor), Some(patch)) = found else {
        let message = format!("nats-server calls itself `{text}`: its version is not understood");
        let help = "use a release: 2.11.16, 2.12.7, 2.14 or later";
        return told("version", RemarkKind::Warning, message, Some(help));
    };
    let found = (major, minor, patch);
    if found < SUPPORTED {
        let message = format!(
            "nats-server {text}: when it is killed, acknowledged messages may come back or stay; beat sweeps them away"
        );
        return told(
            "version",
            RemarkKind::Warning,
            message,
            Some("use 2.11.16, 2.12.7, 2.14 or later"),
        );
    }
    let of_a_series =
        |floor: &(u32, u32, u32)| (floor.0, floor.1) == (major, minor) && found >= *floor;
    match found >= SOUND || FLOORS.iter().any(of_a_series) {
        true => told(
            "version",
            RemarkKind::Ok,
            format!("nats-server {text}"),
            None,
        ),
        false => {
            let message = format!("nats-server {text} has known vulnerabilities");
            told(
                "version",
                RemarkKind::Warning,
                message,
                Some("use 2.11.16, 2.12.7, 2.14 or later"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_advisories_are_named() {
        for good in [
            "2.11.16",
            "2.12.7",
            "2.14.0",
            "2.15.1",
            "3.0.0",
            "2.12.8-beta.1",
        ] {
            assert_eq!(remark(good).kind, RemarkKind::Ok, "{good}");
        }
        for bad in ["2.9.10", "2.10.26", "2.11.15", "2.12.6", "2.13.0", "devel"] {
            assert_eq!(remark(bad).kind, RemarkKind::Warning, "{bad}");
        }
        assert!(remark("2.9.10").message.contains("may come back"));
    }
}
