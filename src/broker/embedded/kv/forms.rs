//! How keys, values and changes lie in the store.

use chrono::{DateTime, Utc};

use crate::broker::{Bucket, Entry, Lifetime, Revision, embedded::context::split_number};

/// Longest key.
const MAX_KEY: usize = 512;

/// Ends a token in the keys of the index; no token contains it.
const END_OF_TOKEN: u8 = 0;

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Value {
    pub(in super::super) revision: Revision,
    pub(in super::super) changed_at: DateTime<Utc>,
    pub(in super::super) bytes: Vec<u8>,
}

impl Value {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(16 + self.bytes.len());
        raw.extend_from_slice(&self.revision.0.to_be_bytes());
        raw.extend_from_slice(&self.changed_at.timestamp_millis().to_be_bytes());
        raw.extend_from_slice(&self.bytes);
        raw
    }

    pub(in super::super) fn decode(raw: &[u8]) -> Option<Self> {
        let (revision, rest) = split_number(raw)?;
        let (changed_at, bytes) = split_time(rest)?;
        Some(Self {
            revision: Revision(revision),
            changed_at,
            bytes: bytes.to_vec(),
        })
    }

    pub(in super::super) fn into_entry(self, key: String) -> Entry {
        Entry {
            key,
            revision: self.revision,
            value: self.bytes,
        }
    }
}

fn split_time(raw: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let (at, rest) = raw.split_first_chunk::<8>()?;
    let at = DateTime::from_timestamp_millis(i64::from_be_bytes(*at))?;
    Some((at, rest))
}

/// Refuses what the other brokers could not carry as a key.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let sound = key
        .split('.')
        .all(|token| !token.is_empty() && token.chars().all(allowed));
    if sound && key.len() <= MAX_KEY {
        Ok(())
    } else {
        Err(format!(
            "`{key}` is not a key: dot-separated tokens of letters, digits, `_` and `-`, at most \
             {MAX_KEY} characters"
        ))
    }
}

/// Whether a key is under a prefix: empty, or ending with a dot.
pub(in super::super) fn key_within(key: &str, prefix: &str) -> bool {
    key.starts_with(prefix)
}

pub(super) fn token(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

fn bucket_byte(bucket: Bucket) -> u8 {
    match bucket {
        Bucket::State => b's',
        Bucket::Runs => b'r',
        Bucket::Locks => b'l',
        Bucket::Unique(Lifetime::Hour) => b'1',
        Bucket::Unique(Lifetime::Day) => b'2',
        Bucket::Unique(Lifetime::Week) => b'3',
        Bucket::Unique(Lifetime::Month) => b'4',
        Bucket::Workers => b'w',
    }
}

/// The key of a value; that of a prefix likewise.
pub(in super::super) fn full_key(bucket: Bucket, key: &str) -> Vec<u8> {
    let mut full = vec![bucket_byte(bucket)];
    full.extend_from_slice(key.as_bytes());
    full
}

/// What the changes of all keys with this first token start with.
pub(super) fn token_prefix(bucket: Bucket, token: &str) -> Vec<u8> {
    let mut prefix = full_key(bucket, token);
    prefix.push(END_OF_TOKEN);
    prefix
}

/// The smallest key behind all changes of the token that a change belongs to.
pub(super) fn next_token(change: &[u8]) -> Vec<u8> {
    let end = change.iter().position(|byte| *byte == END_OF_TOKEN);
    let mut next = change[..end.unwrap_or(change.len())].to_vec();
    next.push(END_OF_TOKEN + 1);
    next
}

pub(super) fn change_key(bucket: Bucket, key: &str, revision: u64) -> Vec<u8> {
    let mut change = token_prefix(bucket, token(key));
    change.extend_from_slice(&revision.to_be_bytes());
    change
}

pub(super) fn change_value(key: &str, changed_at: DateTime<Utc>) -> Vec<u8> {
    let mut value = changed_at.timestamp_millis().to_be_bytes().to_vec();
    value.extend_from_slice(key.as_bytes());
    value
}

pub(super) fn split_change(value: &[u8]) -> Option<(DateTime<Utc>, &str)> {
    let (changed_at, key) = split_time(value)?;
    Some((changed_at, std::str::from_utf8(key).ok()?))
}

/// The smallest key behind all values under a prefix (empty, or ending with a dot).
pub(in super::super) fn scan_end(bucket: Bucket, prefix: &str) -> Vec<u8> {
    let mut end = full_key(bucket, prefix);
    match end.last_mut() {
        // The bucket's byte or a dot: never the largest byte.
        Some(last) => *last += 1,
        None => end.push(u8::MAX),
    }
    end
}
