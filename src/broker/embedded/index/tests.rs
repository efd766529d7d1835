//! Virtual time: `at(n)` is `n` seconds after the start.

use super::*;
use crate::clock;

const LEASE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(120);

struct World {
    index: Index,
    start: Instant,
    last: u64,
}

fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

fn header(queue_name: &str, id: &str, slot: Slot) -> Header {
    Header {
        run_id: format!("{id}@20261123T023000Z").parse().unwrap(),
        queue: queue(queue_name),
        slot,
        deliveries: 0,
        not_before: None,
    }
}

impl World {
    fn new() -> Self {
        Self {
            index: Index::new(LEASE, WINDOW),
            start: clock::monotonic(),
            last: 0,
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn admit(&mut self, header: &Header, now: u64) -> Admission {
        self.last += 1;
        self.index.admit(self.last, header, self.at(now))
    }

    fn publish(&mut self, queue_name: &str, id: &str, now: u64) -> u64 {
        let admitted = self.admit(&header(queue_name, id, Slot::Job), now);
        assert_eq!(admitted, Admission::Admitted);
        let (sequence, now) = (self.last, self.at(now));
        assert_eq!(self.index.stored(sequence, now), Some(queue(queue_name)));
        sequence
    }

    fn take(&mut self, shares: &[(&str, usize)], max: usize, now: u64) -> Vec<Taken> {
        let shares: Vec<_> = shares.iter().map(|(q, n)| (queue(q), *n)).collect();
        let now = self.at(now);
        let last = &mut self.last;
        self.index.take(&shares, max, now, || {
            *last += 1;
            *last
        })
    }

    fn take_one(&mut self, now: u64) -> Taken {
        self.take(&[("q", 1)], 1, now).remove(0)
    }

    fn depth(&self) -> (u64, u64) {
        let depth = &self.index.depths()[0];
        (depth.waiting, depth.running)
    }
}

#[test]
fn a_run_is_delivered_only_after_it_was_stored() {
    let mut world = World::new();
    assert_eq!(
        world.admit(&header("q", "a", Slot::Job), 0),
        Admission::Admitted
    );
    let sequence = world.last;
    assert!(world.index.is_storing(sequence));
    assert!(world.take(&[("q", 1)], 1, 0).is_empty());
    assert_eq!(world.index.pending(0).count(), 0);
    world.index.stored(sequence, world.at(1));
    assert!(!world.index.is_storing(sequence));
    assert_eq!(world.take_one(1).hold.sequence, sequence);
    assert_eq!(world.index.stored(sequence, world.at(1)), None, "only once");
}

#[test]
fn a_run_that_was_not_stored_leaves_no_trace() {
    let mut world = World::new();
    let run = header("q", "a", Slot::Job);
    world.admit(&run, 0);
    world.index.not_stored(world.last);
    assert_eq!(world.index.len(), 0);
    assert_eq!(world.admit(&run, 0), Admission::Admitted);
}

#[test]
fn ids_are_remembered_for_the_window_and_not_longer() {
    let mut world = World::new();
    let run = header("q", "a", Slot::Run);
    let sequence = world.publish("q", "a", 0);
    let taken = world.take_one(0);
    world.index.settle(taken.hold, world.at(1)).unwrap();
    assert_eq!(world.admit(&run, 119), Admission::Duplicate(sequence));
    assert!(world.index.forget_ids(world.at(119)).is_empty());
    assert_eq!(world.admit(&run, 120), Admission::Admitted);
    // The first entry's time is over, the second's is not.
    assert!(world.index.forget_ids(world.at(121)).is_empty());
    assert_eq!(world.index.forget_ids(world.at(240)), [run.run_id]);
}

#[test]
fn a_stored_run_is_a_duplicate_for_ever_and_occupies_its_slot() {
    let mut world = World::new();
    let sequence = world.publish("q", "a", 0);
    world.index.forget_ids(world.at(500));
    let again = world.admit(&header("q", "a", Slot::Job), 500);
    assert_eq!(again, Admission::Duplicate(sequence));
    let mut other = header("q", "a", Slot::Job);
    other.run_id = "a@20261123T024000Z".parse().unwrap();
    let refused = world.admit(&other, 500);
    let run_id = header("q", "a", Slot::Job).run_id;
    assert_eq!(refused, Admission::Occupied { sequence, run_id });
}

#[test]
fn leases_end_exactly_and_count() {
    let mut world = World::new();
    world.publish("q", "a", 0);
    let first = world.take_one(0);
    assert_eq!(first.header.deliveries, 1);
    assert_eq!(world.index.next_due(), Some(world.at(10)));
    assert!(world.index.advance(world.at(9)).is_empty());
    assert_eq!(world.depth(), (0, 1));
    assert_eq!(world.index.advance(world.at(10)), [queue("q")]);
    assert_eq!(world.depth(), (1, 0));
    assert_eq!(world.take_one(10).header.deliveries, 2);
}

#[test]
fn a_lost_lease_is_worth_nothing_even_before_anybody_took_the_run() {
    let mut world = World::new();
    world.publish("q", "a", 0);
    let first = world.take_one(0).hold;
    for now in [world.at(10), world.at(30)] {
        assert_eq!(world.index.renew(first, now), Err(NotHeld::Lost));
        assert_eq!(world.index.settle(first, now), Err(NotHeld::Lost));
        let released = world.index.release(first, Duration::ZERO, now);
        assert_eq!(released, Err(NotHeld::Lost));
        world.index.advance(now);
    }
    let second = world.take_one(30).hold;
    assert_eq!(world.index.settle(first, world.at(31)), Err(NotHeld::Lost));
    assert_eq!(world.index.settle(second, world.at(31)), Ok(()));
    assert_eq!(world.index.settle(second, world.at(31)), Err(NotHeld::Gone));
}

#[test]
fn renewing_moves_the_end() {
    let mut world = World::new();
    world.publish("q", "a", 0);
    let hold = world.take_one(0).hold;
    for now in [4, 8, 17] {
        world.index.renew(hold, world.at(now)).unwrap();
        assert!(world.index.advance(world.at(now + 9)).is_empty());
    }
    assert_eq!(world.index.next_due(), Some(world.at(27)));
    world.index.settle(hold, world.at(26)).unwrap();
    assert_eq!(world.index.next_due(), None);
}

#[test]
fn a_run_put_off_waits_and_holds_its_slot() {
    let mut world = World::new();
    let sequence = world.publish("q", "a", 0);
    let hold = world.take_one(0).hold;
    let delay = Duration::from_secs(100);
    let header_then = world.index.release(hold, delay, world.at(1)).unwrap();
    assert_eq!(header_then.deliveries, 1);
    assert_eq!(world.depth(), (1, 0));
    assert!(world.take(&[("q", 1)], 1, 100).is_empty());
    assert!(world.index.advance(world.at(100)).is_empty());
    let run_id = header_then.run_id;
    assert_eq!(
        world.index.occupant(&queue("q"), &run_id, Slot::Job),
        Some(sequence)
    );
    assert_eq!(world.index.advance(world.at(101)), [queue("q")]);
    assert_eq!(world.take_one(101).header.deliveries, 2);
}

#[test]
fn absurd_delays_do_no_harm() {
    let mut world = World::new();
    world.publish("q", "a", 0);
    let hold = world.take_one(0).hold;
    world
        .index
        .release(hold, Duration::MAX, world.at(0))
        .unwrap();
    assert_eq!(world.index.next_due(), Some(world.start + MAX_DELAY));
}

#[test]
fn shares_then_preference() {
    type Shares = &'static [(&'static str, usize)];
    let table: &[(Shares, usize, &str)] = &[
        (&[("h", 3), ("d", 1), ("l", 1)], 5, "hhhdl"),
        (&[("h", 3), ("d", 1), ("l", 1)], 2, "hh"),
        (&[("h", 1), ("d", 1)], 5, "hdhhh"),
        (&[("d", 0), ("h", 0)], 5, "ddddh"),
        (&[("none", 4), ("l", 1)], 3, "lll"),
        (&[("h", 9)], 9, "hhhh"),
        (&[("h", 1)], 0, ""),
        (&[], 3, ""),
    ];
    for (shares, max, expected) in table {
        let mut world = World::new();
        for name in ["h", "d", "l"] {
            for n in 0..4 {
                world.publish(name, &format!("{name}{n}"), 0);
            }
        }
        let taken = world.take(shares, *max, 0);
        let queues: String = taken.iter().map(|t| t.header.queue.to_string()).collect();
        assert_eq!(queues, *expected, "{shares:?} of {max}");
    }
}

#[test]
fn removing_works_in_every_state_but_storing() {
    let mut world = World::new();
    let q = queue("q");
    let leased = world.publish("q", "a", 0);
    world.take_one(0);
    let put_off = world.publish("q", "b", 0);
    let hold = world.take_one(0).hold;
    world.index.release(hold, LEASE, world.at(0)).unwrap();
    let ready = world.publish("q", "c", 0);
    assert_eq!(world.index.pending(0).count(), 3);
    for sequence in [leased, put_off, ready] {
        assert!(!world.index.remove(sequence, &queue("other")));
        assert!(world.index.remove(sequence, &q));
        assert!(!world.index.remove(sequence, &q));
    }
    assert_eq!((world.depth(), world.index.next_due()), ((0, 0), None));
    world.admit(&header("q", "d", Slot::Job), 0);
    assert!(!world.index.remove(world.last, &q));
}

#[test]
fn a_restored_run_is_there_at_once_unless_it_was_put_off() {
    let mut world = World::new();
    let mut first = header("q", "a", Slot::Job);
    first.deliveries = 3;
    let now = world.at(0);
    world.index.restore(7, first, Duration::ZERO, now);
    let later = Duration::from_secs(5);
    world
        .index
        .restore(8, header("q", "b", Slot::Run), later, now);
    world.index.restore_id(
        header("q", "c", Slot::Run).run_id,
        Duration::from_secs(100),
        now,
    );
    world.last = 8;
    assert_eq!(world.take_one(0).header.deliveries, 4);
    assert!(world.take(&[("q", 1)], 1, 4).is_empty());
    assert_eq!(world.index.advance(world.at(5)).len(), 1);
    let run = header("q", "c", Slot::Run);
    assert_eq!(world.admit(&run, 19), Admission::Duplicate(0));
    assert_eq!(world.admit(&run, 20), Admission::Admitted);
}
