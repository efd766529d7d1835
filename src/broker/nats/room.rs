//! How much a stream may hold, so that one of them does not take the room that all need. Pure.
//!
//! A server does not tell how much room it has left, only whether it has as much as is asked for. So a stream is made with
//! more than it is to have, halved until the server agrees, and then it is given its share of that. Until then its
//! description says so: whoever finds it finishes that, if the one that made it died in between.

use serde_json::Value;

use super::setup::Stream;

const MIB: i64 = 1 << 20;
/// What is kept of logs, and of dead letters, at most; and what may wait, if nobody allows more.
pub(super) const WANTED: i64 = 1 << 30;
/// The description of a stream that has not been given its share yet.
const PROVISIONAL: &str = "being made: it holds less in a moment";

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// The room that the server is asked for; `None`: as much as there is.
    asked: Option<i64>,
    /// The part of it that the stream gets.
    share: i64,
}

impl Room {
    /// Whether it has no bound at all.
    pub(super) fn is_unbounded(self) -> bool {
        self.asked.is_none()
    }

    /// Asks for it.
    pub(super) fn ask(self, config: &mut Value) {
        let Some(asked) = self.asked else {
            config["max_bytes"] = (-1).into();
            return;
        };
        config["max_bytes"] = asked.into();
        if self.share > 1 {
            config["description"] = PROVISIONAL.into();
        }
    }
}

/// What is tried for a stream, one after the other, until there is so much room. Waiting runs get a quarter at
/// most, for a run that waits needs a record when it is executed; on a server where that is next to nothing, they share
/// all with everything else. Logs and dead letters get half of what is left then.
pub(super) fn rooms(stream: Stream) -> Vec<Room> {
    let halved = |from: i64, least: i64, share: i64| {
        let sizes = std::iter::successors(Some(from), |size| Some(size / 2));
        let sizes = sizes.take_while(move |size| *size >= least);
        sizes.map(move |size| Room {
            asked: Some(size),
            share,
        })
    };
    let plain = |asked| Room { asked, share: 1 };
    match stream {
        Stream::Jobs => halved(4 * WANTED, 8 * MIB, 4)
            .chain([plain(None)])
            .collect(),
        Stream::Logs | Stream::Dead => std::iter::once(plain(Some(WANTED)))
            .chain(halved(WANTED / 2, 16 * MIB, 2))
            .collect(),
        Stream::Values(_) => vec![plain(None)],
    }
}

/// The settings with which a stream has its share, if it has not got it yet.
pub(super) fn settled(stream: Stream, config: &Value) -> Option<Value> {
    let asked = config["max_bytes"].as_i64().filter(|asked| *asked > 0)?;
    let share = match stream {
        Stream::Jobs => 4,
        Stream::Logs | Stream::Dead => 2,
        Stream::Values(_) => return None,
    };
    (config["description"] == PROVISIONAL).then(|| {
        let mut config = config.clone();
        config["max_bytes"] = (asked / share).into();
        config["description"] = "".into();
        config
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a stream gets from a server with so much room.
    fn gets(stream: Stream, room: i64) -> Option<i64> {
        let fits = |tried: &Room| tried.asked.unwrap_or_default() <= room;
        let tried = rooms(stream).into_iter().find(fits)?;
        let mut config = json!({});
        tried.ask(&mut config);
        let config = settled(stream, &config).unwrap_or(config);
        assert_eq!(settled(stream, &config), None);
        config["max_bytes"].as_i64()
    }

    #[test]
    fn waiting_runs_leave_three_quarters_to_the_others() {
        let gets = |room| gets(Stream::Jobs, room);
        assert_eq!(gets(100 * WANTED), Some(WANTED));
        assert_eq!(gets(4 * WANTED), Some(WANTED));
        assert_eq!(gets(4 * WANTED - 1), Some(WANTED / 2));
        assert_eq!(gets(20 * MIB), Some(4 * MIB));
        assert_eq!(gets(8 * MIB), Some(2 * MIB));
        assert_eq!(gets(8 * MIB - 1), Some(-1));
    }

    #[test]
    fn logs_and_letters_leave_half_where_there_is_little() {
        for stream in [Stream::Logs, Stream::Dead] {
            assert_eq!(gets(stream, WANTED), Some(WANTED));
            assert_eq!(gets(stream, WANTED - 1), Some(WANTED / 4));
            assert_eq!(gets(stream, 16 * MIB), Some(8 * MIB));
            assert_eq!(gets(stream, 16 * MIB - 1), None);
        }
    }

    #[test]
    fn what_somebody_has_set_stays() {
        let config = json!({ "max_bytes": 4 * WANTED });
        assert_eq!(settled(Stream::Jobs, &config), None);
    }
}
