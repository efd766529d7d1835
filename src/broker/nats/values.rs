//! Key-value buckets, in the form that every NATS client knows: one stream a bucket, one subject a
//! key, the last message is the value.

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::DeliverPolicy, consumer::push},
};
use futures::{StreamExt, stream};
use serde_json::json;

use super::{
    NatsBroker, PATIENCE,
    api::{
        CallError, OPERATION_HEADER, StoredMessage, code, is_a_marker, is_an_answer, passed_over,
    },
    publish::Stored,
    setup::Stream,
};
use crate::broker::{Broker, BrokerError, Bucket, Cas, Change, Changes, Entry, Revision};

const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// How often a removed stream is made again.
const TRIES: usize = 2;
/// The server promised more values, and sent none.
const INCOMPLETE: &str = "the values that are there did not all arrive in time; try again, and if that does not help, \
     look at the server and its log";

pub(super) async fn get(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
) -> Result<Option<Entry>, BrokerError> {
    let message = last(nats, bucket, key).await?;
    Ok(message.and_then(|message| as_entry(nats, bucket, &message)))
}

pub(super) async fn latest(
    nats: &NatsBroker,
    bucket: Bucket,
    prefix: &str,
) -> Result<Option<Entry>, BrokerError> {
    if !nats.is_there(Stream::Values(bucket)).await? {
        return Ok(None);
    }
    let subject = nats.names.key(bucket, &format!("{prefix}>"));
    let operation = format!("get {subject}");
    let which = json!({ "last_by_subj": subject });
    let stream = nats.names.bucket_stream(bucket);
    let message = nats.stored_message(&operation, &stream, &which).await?;
    Ok(message.and_then(|message| as_entry(nats, bucket, &message)))
}

async fn last(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
) -> Result<Option<StoredMessage>, BrokerError> {
    if !nats.is_there(Stream::Values(bucket)).await? {
        return Ok(None);
    }
    let subject = nats.names.key(bucket, key);
    let operation = format!("get {subject}");
    let stream = nats.names.bucket_stream(bucket);
    nats.last_message(&operation, &stream, &subject).await
}

fn is_removal(message: &StoredMessage) -> bool {
    is_a_marker(|name| message.header(name).is_some())
}

fn as_entry(nats: &NatsBroker, bucket: Bucket, message: &StoredMessage) -> Option<Entry> {
    if is_removal(message) {
        return None;
    }
    let key = message
        .subject
        .strip_prefix(&nats.names.key_prefix(bucket))?;
    let value = match is_an_answer(|name| message.header(name).is_some()) {
        true => passed_over(&message.subject),
        false => message.payload(),
    };
    Some(Entry {
        key: key.to_owned(),
        revision: Revision(message.seq),
        value,
    })
}

pub(super) async fn put(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
    value: Vec<u8>,
) -> Result<Revision, BrokerError> {
    let stored = write(nats, bucket, key, HeaderMap::new(), value).await;
    let stored = stored.map_err(|error| nats.error(&format!("put {key}"), error))?;
    Ok(Revision(stored.seq))
}

pub(super) async fn compare_and_set(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
    expected: Option<Revision>,
    value: Vec<u8>,
) -> Result<Cas, BrokerError> {
    let revision = expected.map_or(0, |revision| revision.0);
    match set_if(nats, bucket, key, revision, value.clone()).await? {
        Cas::Conflict if expected.is_none() => {}
        done => return Ok(done),
    }
    // A key that was removed has left a marker, which stands for nothing.
    match last(nats, bucket, key).await? {
        Some(marker) if is_removal(&marker) => set_if(nats, bucket, key, marker.seq, value).await,
        Some(_) | None => Ok(Cas::Conflict),
    }
}

/// Sets a key that has neither a value nor the marker of a removed one.
pub(super) async fn create(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
    value: Vec<u8>,
) -> Result<Cas, BrokerError> {
    set_if(nats, bucket, key, 0, value).await
}

/// Whether what was written last under a key is the marker of a removal.
pub(super) async fn was_removed(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
) -> Result<bool, BrokerError> {
    let message = last(nats, bucket, key).await?;
    Ok(message.as_ref().is_some_and(is_removal))
}

async fn set_if(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
    revision: u64,
    value: Vec<u8>,
) -> Result<Cas, BrokerError> {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED, revision.to_string());
    match write(nats, bucket, key, headers, value).await {
        Ok(stored) => Ok(Cas::Done(Revision(stored.seq))),
        Err(error)
            if error.is(code::WRONG_LAST_SEQUENCE)
                || error.is(code::WRONG_LAST_SEQUENCE_CONSTANT) =>
        {
            Ok(Cas::Conflict)
        }
        Err(error) => Err(nats.error(&format!("compare and set {key}"), error)),
    }
}

/// Removes a key: only a marker is left.
pub(super) async fn delete(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
) -> Result<(), BrokerError> {
    let gone = last(nats, bucket, key).await?;
    if gone.as_ref().is_none_or(is_removal) {
        return Ok(());
    }
    let mut headers = HeaderMap::new();
    // The marker takes the place of the value, of which there is one. A roll-up, as for `PURGE`, is not allowed in the
    // stream: who may write one key could remove all by it.
    headers.insert(OPERATION_HEADER, "DEL");
    let stored = write(nats, bucket, key, headers, Vec::new()).await;
    stored.map_err(|error| nats.error(&format!("delete {key}"), error))?;
    Ok(())
}

async fn write(
    nats: &NatsBroker,
    bucket: Bucket,
    key: &str,
    headers: HeaderMap,
    value: Vec<u8>,
) -> Result<Stored, CallError> {
    let subject = nats.names.key(bucket, key);
    let mut tried = 0;
    loop {
        tried += 1;
        let ready = nats.ensure(Stream::Values(bucket)).await;
        ready.map_err(CallError::Broker)?;
        let operation = format!("write {subject}");
        let stored = nats
            .store::<Stored>(
                &operation,
                subject.clone(),
                Some(headers.clone()),
                value.clone(),
            )
            .await;
        match stored {
            Err(CallError::Nobody(_)) if tried < TRIES => {
                nats.setup.doubt(&nats.names.bucket_stream(bucket));
            }
            stored => return stored,
        }
    }
}

pub(super) async fn watch(
    nats: &NatsBroker,
    bucket: Bucket,
    prefix: &str,
) -> Result<Changes, BrokerError> {
    if !nats.is_there(Stream::Values(bucket)).await? {
        // Nothing to follow: who wants to see what comes has to look again.
        return Ok(stream::iter([Ok(Change::Current)]).boxed());
    }
    let name = nats.names.bucket_stream(bucket);
    let operation = format!("watch {name}");
    let failed = |error: String| BrokerError::Unreachable {
        broker: nats.describe(),
        operation: operation.clone(),
        reason: error,
    };
    let context = jetstream::new(nats.client.clone());
    let stream = context.get_stream_no_info(&name).await;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    let mut violations = nats.violations.listen();
    let created = stream.create_consumer(push::OrderedConfig {
        // With a name, what is watched is part of the API's subject, for permissions.
        name: Some(format!("watch-{}", uuid::Uuid::new_v4().simple())),
        deliver_subject: nats.client.new_inbox(),
        filter_subject: nats.names.key(bucket, &format!("{prefix}>")),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..push::OrderedConfig::default()
    });
    let asked = format!("$JS.API.CONSUMER.CREATE.{name}");
    let created = tokio::select! {
        created = created => created,
        reason = violations.refusal(|told| told.is_publish_under(&asked)) => {
            return Err(nats.not_permitted(&operation, reason));
        }
    };
    let consumer = created.map_err(|error| failed(error.to_string()))?;
    let empty = consumer.cached_info().num_pending == 0;
    let messages = consumer.messages().await;
    let messages = messages.map_err(|error| failed(error.to_string()))?;
    let key_prefix = nats.names.key_prefix(bucket);
    let broker = nats.describe();
    let unreachable = move |reason: String| {
        vec![Err(BrokerError::Unreachable {
            broker: broker.clone(),
            operation: operation.clone(),
            reason,
        })]
    };
    let changes = stream::unfold((messages, empty), move |(mut messages, mut current)| {
        let (unreachable, key_prefix) = (unreachable.clone(), key_prefix.clone());
        async move {
            let next = match current {
                true => Ok(messages.next().await),
                false => tokio::time::timeout(PATIENCE, messages.next()).await,
            };
            let changes = match next {
                Ok(Some(Ok(message))) => understand(&message, &key_prefix, &mut current),
                Ok(Some(Err(error))) => unreachable(error.to_string()),
                Ok(None) => return None,
                // A server that counts wrongly after a crash would be waited for without an end.
                Err(_) => unreachable(INCOMPLETE.to_owned()),
            };
            Some((stream::iter(changes), (messages, current)))
        }
    });
    let changes = changes.flatten();
    let first = stream::iter(empty.then_some(Ok(Change::Current)));
    Ok(first.chain(changes).boxed())
}

/// A message as a change; the last of those that were there at the beginning is followed by
/// [`Change::Current`].
fn understand(
    message: &jetstream::Message,
    key_prefix: &str,
    current: &mut bool,
) -> Vec<Result<Change, BrokerError>> {
    let (Some(key), Ok(info)) = (message.subject.strip_prefix(key_prefix), message.info()) else {
        return Vec::new();
    };
    let headers = message.headers.as_ref();
    let has = |name: &str| headers.is_some_and(|headers| headers.get(name).is_some());
    let key = key.to_owned();
    let change = match is_a_marker(has) {
        // A marker of what was removed before the watch began tells nothing new.
        true if !*current => None,
        true => Some(Ok(Change::Deleted { key })),
        false => Some(Ok(Change::Put(Entry {
            revision: Revision(info.stream_sequence),
            value: match is_an_answer(has) {
                true => passed_over(&message.subject),
                false => message.payload.to_vec(),
            },
            key,
        }))),
    };
    let mut changes: Vec<_> = change.into_iter().collect();
    if !*current && info.pending == 0 {
        *current = true;
        changes.push(Ok(Change::Current));
    }
    changes
}
