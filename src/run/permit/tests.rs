use super::*;
use proptest::prelude::*;

fn run(name: &str) -> RunId {
    format!("{name}@20261123T023000Z").parse().unwrap()
}

fn by(name: &str, fence: u64) -> By {
    By::Run {
        run_id: run(name),
        fence,
    }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_400_000 + second, 0).unwrap()
}

fn wish(name: &str, fence: u64, limit: u32) -> Wish {
    Wish {
        by: by(name, fence),
        ancestors: Vec::new(),
        inherit: false,
        limit,
        at: at(0),
    }
}

#[test]
fn a_lock_has_one_holder_and_growing_tokens() {
    let mut lock = Places::default();
    let first = lock.take(&wish("a", 1, 1)).unwrap();
    assert_eq!(lock.take(&wish("b", 1, 1)), None);
    // The next attempt of the same run.
    let second = lock.take(&wish("a", 2, 1)).unwrap();
    assert!(second > first);
    assert!(
        !lock.give_back(&by("a", 1), first),
        "a fenced attempt gives nothing away"
    );
    assert!(lock.give_back(&by("a", 2), second));
    assert!(lock.take(&wish("b", 1, 1)).unwrap() > second);
    // The value was lost.
    let later = Wish {
        at: at(9),
        ..wish("c", 1, 1)
    };
    assert!(Places::default().take(&later).unwrap() > lock.token);
}

#[test]
fn of_several_who_want_to_start_the_same_attempt_one_has_the_lock() {
    let mut lock = Places::default();
    let first = lock.take(&wish("a", 3, 1)).unwrap();
    assert_eq!(lock.take(&wish("a", 3, 1)), None, "somebody else's try");
    assert_eq!(lock.take(&wish("a", 2, 1)), None, "an older one");
    assert_eq!(lock.holders.len(), 1);
    // Whoever was refused, or was refused before its value was lost, gives nothing away.
    assert!(!lock.give_back(&by("a", 3), first + 1));
    assert_eq!(lock.take(&wish("b", 1, 1)), None);
    assert!(lock.give_back(&by("a", 3), first));
}

#[test]
fn a_lock_is_lent_to_children_and_outlives_the_parent_with_them() {
    let child = |inherit| Wish {
        ancestors: vec![run("parent"), run("grandparent")],
        inherit,
        ..wish("child", 1, 1)
    };
    for (parent_lends, child_asks, expected) in [
        (false, false, false),
        (true, false, true),
        (false, true, true),
    ] {
        let mut lock = Places::default();
        let parent = Wish {
            inherit: parent_lends,
            ..wish("parent", 1, 1)
        };
        let token = lock.take(&parent).unwrap();
        assert_eq!(lock.take(&child(child_asks)).is_some(), expected);
        assert_eq!(lock.take(&wish("stranger", 1, 1)), None);
        lock.give_back(&by("parent", 1), token);
        assert_eq!(lock.take(&wish("stranger", 1, 1)).is_none(), expected);
    }
}

#[test]
fn sessions_are_renewed_and_given_back() {
    let session = |renewals| By::Session {
        id: "host:1".to_owned(),
        renewals,
        lease_ms: 15_000,
    };
    let mut lock = Places::default();
    let token = lock
        .take(&Wish {
            by: session(0),
            ..wish("x", 1, 1)
        })
        .unwrap();
    assert_eq!(lock.renew("host:1"), Some(token));
    assert_eq!(lock.renew("host:2"), None);
    assert_eq!(lock.holders[0].by, session(1));
    assert!(lock.give_back(&session(0), token));
    assert_eq!(lock.renew("host:1"), None);
}

#[test]
fn who_has_lost_its_place() {
    let lease = Duration::from_secs(15);
    let (short, long) = (Duration::from_secs(15), Duration::from_secs(16));
    let record = |state: RunState, fence| {
        let mut record: RunRecord = serde_json::from_value(serde_json::json!({
            "run_id": run("a"), "queue": "default", "state": "queued",
            "scheduled_for": at(0), "published_at": at(0),
            "fence": fence, "attempts_used": 0, "crashes": 0,
        }))
        .unwrap();
        record.state = state;
        record
    };
    use RunState::{Dead, Queued, Retrying, Running, Succeeded};
    for (state, fence, observed, expected) in [
        (Running, 2, long, false),
        (Running, 1, short, false), // its claim is on its way
        (Running, 1, long, true),
        (Running, 3, short, true),
        (Succeeded, 2, short, true),
        (Dead, 2, short, true),
        (Queued, 1, short, false),
        (Retrying, 2, short, false),
        (Retrying, 2, long, true),
    ] {
        let record = record(state, fence);
        let gone = is_gone(&by("a", 2), Some(&record), observed, lease);
        assert_eq!(
            gone, expected,
            "{state} under {fence}, seen for {observed:?}"
        );
    }
    assert!(!is_gone(&by("a", 2), None, short, lease));
    assert!(is_gone(&by("a", 2), None, long, lease));
}

fn rate(limit: &str, burst: u32) -> Rate {
    Rate {
        key: "x".parse().unwrap(),
        limit: limit.parse().unwrap(),
        burst,
    }
}

#[test]
fn starts_that_a_clock_which_was_ahead_reserved_put_off_nobody() {
    let (mut pace, rate) = (Pace::default(), rate("1/s", 1));
    let ahead = 8 * 3600;
    for wait in 0..3 {
        assert_eq!(pace.reserve(&rate, at(ahead)), at(ahead + wait));
    }
    // The same distance from now.
    assert_eq!(pace.reserve(&rate, at(1)), at(4));
    assert_eq!(pace.reserve(&rate, at(1)), at(5));
    // Clocks differ a little.
    assert_eq!(pace.reserve(&rate, at(-59)), at(6));
}

#[test]
fn a_burst_then_the_rate_in_order() {
    let (mut pace, rate) = (Pace::default(), rate("2/s", 3));
    let waits: Vec<_> = (0..6)
        .map(|_| (pace.reserve(&rate, at(0)) - at(0)).num_milliseconds())
        .collect();
    assert_eq!(waits, [0, 0, 0, 500, 1000, 1500]);
    // A quiet time gives the burst back, and no more.
    let waits: Vec<_> = (0..4)
        .map(|_| (pace.reserve(&rate, at(100)) - at(100)).num_milliseconds())
        .collect();
    assert_eq!(waits, [0, 0, 0, 500]);
}

proptest! {
    #[test]
    fn never_faster_than_the_rate(
        count in 1..50_u32, burst in 1..10_u32,
        arrivals in prop::collection::vec(0..2_000_i64, 1..100),
    ) {
        let (mut pace, rate) = (Pace::default(), rate(&format!("{count}/s"), burst));
        let mut now = at(0);
        let mut starts = Vec::new();
        for wait in arrivals {
            now += TimeDelta::milliseconds(wait);
            let start = pace.reserve(&rate, now);
            prop_assert!(start >= now);
            starts.push(start);
        }
        // In any window no more than the burst and what the rate allows.
        for (first, start) in starts.iter().enumerate() {
            for (last, end) in starts.iter().enumerate().skip(first) {
                let window = (*end - *start).num_microseconds().unwrap();
                let allowed = i64::from(burst) + window / microseconds(rate.interval()) + 1;
                prop_assert!((last - first) as i64 <= allowed);
            }
        }
    }
}
