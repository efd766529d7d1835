//! Which queue gets the next free slot: unweighted queues strictly first, in the order given,
//! weighted ones by stride scheduling (Waldspurger and Weihl, 1995): each run taken moves its queue
//! on by 1/weight, and the queue that is furthest behind is next. Pure.

use std::{fmt, str::FromStr};

use crate::job::QueueName;

/// Largest weight.
const MAX_WEIGHT: u32 = 1000;

/// A queue that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueShare {
    /// The queue.
    pub queue: QueueName,
    /// Its share among the weighted queues; `None`: before all of them.
    pub weight: Option<u32>,
}

impl FromStr for QueueShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, weight) = match text.split_once(':') {
            Some((name, weight)) => (name, Some(weight)),
            None => (text, None),
        };
        let queue = name.parse().map_err(|error| format!("{error}"))?;
        let weight = match weight.map(str::parse::<u32>) {
            None => None,
            Some(Ok(weight)) if (1..=MAX_WEIGHT).contains(&weight) => Some(weight),
            Some(_) => {
                return Err(format!(
                    "the weight in `{text}` is not a number from 1 to {MAX_WEIGHT}"
                ));
            }
        };
        Ok(Self { queue, weight })
    }
}

impl fmt::Display for QueueShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            Some(weight) => write!(f, "{}:{weight}", self.queue),
            None => self.queue.fmt(f),
        }
    }
}

/// Divides free slots, and remembers who had how much.
#[derive(Debug, Default)]
pub(super) struct Shares {
    strict: Vec<QueueName>,
    weighted: Vec<Weighted>,
}

#[derive(Debug, Clone)]
struct Weighted {
    queue: QueueName,
    stride: f64,
    pass: f64,
}

impl Shares {
    /// Serves these queues from now on; what the old ones had is kept.
    pub(super) fn serve(&mut self, shares: &[QueueShare]) {
        let before = std::mem::take(self);
        let now = before.time();
        for share in shares {
            let Some(weight) = share.weight else {
                self.strict.push(share.queue.clone());
                continue;
            };
            let known = before.weighted.iter().find(|w| w.queue == share.queue);
            self.weighted.push(Weighted {
                queue: share.queue.clone(),
                stride: 1.0 / f64::from(weight),
                pass: known.map_or(now, |known| known.pass),
            });
        }
    }

    /// How many of `free` slots each queue may have, in order of preference.
    pub(super) fn allot(&self, free: usize) -> Vec<(QueueName, usize)> {
        let strict = self.strict.iter().map(|queue| (queue.clone(), free));
        let mut passes: Vec<_> = self.weighted.iter().map(|w| w.pass).collect();
        let mut counts = vec![0; passes.len()];
        for _ in 0..free {
            let next = passes.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
            let Some((at, _)) = next else { break };
            counts[at] += 1;
            passes[at] += self.weighted[at].stride;
        }
        let mut order: Vec<_> = (0..counts.len()).collect();
        order.sort_by(|&a, &b| self.weighted[a].pass.total_cmp(&self.weighted[b].pass));
        let weighted = order
            .into_iter()
            .map(|at| (self.weighted[at].queue.clone(), counts[at]));
        strict.chain(weighted).collect()
    }

    /// Notes what was taken. A queue that had nothing to give saves up no credit.
    pub(super) fn taken<'a>(&mut self, queues: impl Iterator<Item = &'a QueueName>) {
        let mut busy = vec![false; self.weighted.len()];
        for queue in queues {
            if let Some(at) = self.weighted.iter().position(|w| w.queue == *queue) {
                busy[at] = true;
                self.weighted[at].pass += self.weighted[at].stride;
            }
        }
        let served = self.weighted.iter().zip(&busy).filter(|(_, busy)| **busy);
        let behind = served
            .map(|(w, _)| w.pass - w.stride)
            .min_by(f64::total_cmp);
        if let Some(behind) = behind {
            for (weighted, busy) in self.weighted.iter_mut().zip(busy) {
                if !busy {
                    weighted.pass = weighted.pass.max(behind - weighted.stride);
                }
            }
        }
    }

    fn time(&self) -> f64 {
        let passes = self.weighted.iter().map(|w| w.pass);
        passes.min_by(f64::total_cmp).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn shares(text: &[&str]) -> Shares {
        let parsed: Vec<QueueShare> = text.iter().map(|t| t.parse().unwrap()).collect();
        let mut shares = Shares::default();
        shares.serve(&parsed);
        shares
    }

    /// Serves `total` runs, `free` at a time, from queues that are all full.
    fn serve(shares: &mut Shares, total: usize, free: usize) -> BTreeMap<String, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..total / free {
            let mut left = free;
            let mut got = Vec::new();
            for (queue, share) in shares.allot(free) {
                let take = share.min(left);
                left -= take;
                got.extend(std::iter::repeat_n(queue.clone(), take));
            }
            shares.taken(got.iter());
            for queue in got {
                *served.entry(queue.to_string()).or_default() += 1;
            }
        }
        served
    }

    #[test]
    fn weights_are_kept_one_slot_at_a_time_and_many() {
        for free in [1, 3, 9, 18] {
            let mut shares = shares(&["high:5", "default:3", "low:1"]);
            let served = serve(&mut shares, 900, free);
            let counts: Vec<_> = ["high", "default", "low"].map(|q| served[q]).into();
            for (count, expected) in counts.iter().zip([500_usize, 300, 100]) {
                assert!(count.abs_diff(expected) <= 5, "{free}: {counts:?}");
            }
        }
    }

    #[test]
    fn unweighted_queues_come_first() {
        let shares = shares(&["low:1", "critical", "high"]);
        let allotted = shares.allot(4);
        let names: Vec<_> = allotted.iter().map(|(q, n)| (q.as_str(), *n)).collect();
        assert_eq!(names, [("critical", 4), ("high", 4), ("low", 4)]);
    }

    #[test]
    fn an_idle_queue_saves_up_nothing() {
        let mut shares = shares(&["a:1", "b:1"]);
        for _ in 0..100 {
            shares.taken([&"a".parse().unwrap()].into_iter());
        }
        let served = serve(&mut shares, 20, 1);
        assert!(served["a"] >= 9, "{served:?}");
    }

    #[test]
    fn text_is_read_and_written() {
        for text in ["high", "default:3"] {
            assert_eq!(text.parse::<QueueShare>().unwrap().to_string(), text);
        }
        for bad in ["", "a:", "a:0", "a:1001", "a:x", "A", "a:1:2"] {
            assert!(bad.parse::<QueueShare>().is_err(), "{bad}");
        }
    }
}
