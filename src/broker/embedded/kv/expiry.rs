//! Removing what is older than its bucket allows. Walks the index of changes: of every first
//! token only what is too old, so it costs nothing for what stays.

use std::ops::Bound;

use chrono::{DateTime, Utc};

use super::{
    CHANGES, VALUES, Values,
    forms::{change_key, full_key, next_token, split_change, token_prefix},
    is_live,
};
use crate::{
    broker::Bucket,
    clock,
    store::{Batch, Durability, StoreError},
};

/// How many keys are removed as one batch.
const BATCH: usize = 256;

/// What is too old, and where to look on.
struct Expired {
    /// Keys with their revisions.
    keys: Vec<(String, u64)>,
    next: Option<Vec<u8>>,
}

impl Values {
    /// Removes the values of a bucket that are too old. Watchers are not told.
    pub(in super::super) async fn expire(&self, bucket: Bucket) -> Result<(), StoreError> {
        self.expire_at(bucket, clock::now()).await
    }

    pub(super) async fn expire_at(
        &self,
        bucket: Bucket,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        if bucket.max_age().is_none() {
            return Ok(());
        }
        let mut from = full_key(bucket, "");
        loop {
            let expired = self.find_expired(bucket, from, now)?;
            self.remove_expired(bucket, &expired.keys).await?;
            match expired.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Up to [`BATCH`] keys that are too old.
    fn find_expired(
        &self,
        bucket: Bucket,
        mut from: Vec<u8>,
        now: DateTime<Utc>,
    ) -> Result<Expired, StoreError> {
        let end = token_prefix(bucket, "\u{7f}");
        let mut keys = Vec::new();
        'tokens: loop {
            let range = (Bound::Included(&from[..]), Bound::Excluded(&end[..]));
            for pair in self.store.range(CHANGES, range.0, range.1) {
                let (change, value) = pair?;
                match split_change(&value) {
                    Some((changed_at, key)) if !is_live(bucket, changed_at, now) => {
                        let revision = change.last_chunk().map_or(0, |n| u64::from_be_bytes(*n));
                        keys.push((key.to_owned(), revision));
                        if keys.len() == BATCH {
                            let next = Some([change, vec![0]].concat());
                            return Ok(Expired { keys, next });
                        }
                    }
                    Some(_) | None => {
                        from = next_token(&change);
                        continue 'tokens;
                    }
                }
            }
            return Ok(Expired { keys, next: None });
        }
    }

    async fn remove_expired(
        &self,
        bucket: Bucket,
        expired: &[(String, u64)],
    ) -> Result<(), StoreError> {
        if expired.is_empty() {
            return Ok(());
        }
        let room = self.store.reserve(expired.len() * 200).await?;
        let written = {
            let state = self.shared.lock();
            let mut batch = Batch::default();
            for (key, revision) in expired {
                // It may have been changed since; then its new change is in the index.
                let current = self.current(&state, bucket, key)?;
                if current.is_some_and(|current| current.revision == *revision) {
                    batch.remove(VALUES, &full_key(bucket, key));
                }
                batch.remove(CHANGES, &change_key(bucket, key, *revision));
            }
            self.store.submit(room, batch, Durability::Crash, |_| {})
        };
        written.confirmed().await
    }
}
