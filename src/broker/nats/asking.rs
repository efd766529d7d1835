//! How something is asked of the server: what is said if no answer comes, and what is asked again meanwhile.

use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, client::RequestErrorKind};
use futures::{StreamExt, stream::FuturesUnordered};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    NatsBroker,
    api::{ApiError, CallError, code},
};

/// Seen of servers 2.9 to 2.15: out of room, they are silent until they are started again.
pub(super) const NO_ANSWER: &str = "no answer in time; the server's log says why, and if its disk was full it is to be \
    started again when there is room";

/// How long a question waits for its answer before it is asked once more.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The same for what changes something, which may well take longer.
const CHANGE_AGAIN: Duration = Duration::from_secs(1);
/// How long a message with an id waits for its confirmation before it is published once more.
const STORE_AGAIN: Duration = Duration::from_secs(2);

impl NatsBroker {
    /// A request; its answer as it comes.
    pub(super) async fn ask(
        &self,
        operation: &str,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Vec<u8>,
    ) -> Result<Message, CallError> {
        let mut request = Request::new().payload(payload.into());
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        // Before the request: its violation may come at once, and the connection may be lost.
        let mut violations = self.violations.listen();
        let mut losses = self.disturbed.losses();
        let asked = self.client.send_request(subject.clone(), request);
        let answer = tokio::select! {
            biased;
            answer = asked => answer,
            // The answer would come over the connection that asked.
            () = losses.next() => {
                let reason = "the connection was lost".to_owned();
                return Err(CallError::Broker(self.out_of_reach(operation, reason)));
            }
            reason = violations.refusal(|told| told.is_publish_to(&subject)) => {
                return Err(CallError::Broker(self.not_permitted(operation, reason)));
            }
        };
        answer.map_err(|error| {
            let reason = match error.kind() {
                RequestErrorKind::TimedOut => NO_ANSWER.to_owned(),
                RequestErrorKind::NoResponders => {
                    "JetStream does not answer; is it enabled (`nats-server -js`)?".to_owned()
                }
                _ => error.to_string(),
            };
            let told = self.out_of_reach(operation, reason);
            match error.kind() {
                RequestErrorKind::NoResponders => CallError::Nobody(told),
                _ => CallError::Broker(told),
            }
        })
    }

    /// A request to the API under `$JS.API.` that may be repeated: it is, until one of them is answered. A cluster
    /// that elects a leader drops what it is asked meanwhile.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        operation: &str,
        subject: &str,
        body: &Value,
    ) -> Result<T, CallError> {
        let again = match is_look(subject) {
            true => LOOK_AGAIN,
            false => CHANGE_AGAIN,
        };
        let answered = self
            .until_answered(again, usize::MAX, || {
                self.api_once(operation, subject, body)
            })
            .await;
        if let Err(error) = &answered
            && error.is(code::NO_STREAM)
        {
            // It is looked for again, and made, whoever needs it next.
            subject.split('.').for_each(|name| self.setup.doubt(name));
        }
        answered
    }

    /// Asks again after each `again` without an answer, `most` times in all; the first answer that comes.
    async fn until_answered<T, F>(
        &self,
        again: Duration,
        most: usize,
        ask: impl Fn() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let mut asked = FuturesUnordered::new();
        asked.push(ask());
        let mut times = 1;
        loop {
            tokio::select! {
                Some(answer) = asked.next() => return answer,
                () = tokio::time::sleep(again), if times < most => {
                    asked.push(ask());
                    times += 1;
                }
            }
        }
    }

    /// A request to the API that is asked once.
    pub(super) async fn api_once<T: DeserializeOwned>(
        &self,
        operation: &str,
        subject: &str,
        body: &Value,
    ) -> Result<T, CallError> {
        let payload = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let subject = format!("$JS.API.{subject}");
        let answer = self.ask(operation, subject, None, payload).await?;
        self.read(operation, &answer.payload)
    }

    /// Publishes to a stream and reads its acknowledgement.
    pub(super) async fn store<T: DeserializeOwned>(
        &self,
        operation: &str,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Vec<u8>,
    ) -> Result<T, CallError> {
        let answer = self.ask(operation, subject, headers, payload).await?;
        self.read(operation, &answer.payload)
    }

    /// The same for a message with an id, which the server stores once: it is published again if no answer comes. That
    /// of a leader that has died never comes, and the next one may be there long before all patience is gone.
    pub(super) async fn store_by_id<T: DeserializeOwned>(
        &self,
        operation: &str,
        subject: &str,
        headers: &HeaderMap,
        payload: &[u8],
    ) -> Result<T, CallError> {
        self.until_answered(STORE_AGAIN, 2, || {
            let headers = Some(headers.clone());
            self.store(operation, subject.to_owned(), headers, payload.to_vec())
        })
        .await
    }

    fn read<T: DeserializeOwned>(&self, operation: &str, bytes: &[u8]) -> Result<T, CallError> {
        #[derive(Deserialize)]
        struct MayFail {
            error: Option<ApiError>,
        }
        let failed = |error: serde_json::Error| {
            CallError::Broker(
                self.failed(operation, format!("its answer is not understood: {error}")),
            )
        };
        let MayFail { error } = serde_json::from_slice(bytes).map_err(failed)?;
        match error {
            Some(error) => Err(CallError::Api(error)),
            None => serde_json::from_slice(bytes).map_err(failed),
        }
    }
}

/// Whether a request under `$JS.API.` changes nothing.
fn is_look(subject: &str) -> bool {
    let looks = [
        "INFO",
        "STREAM.INFO.",
        "STREAM.MSG.GET.",
        "CONSUMER.INFO.",
        "CONSUMER.LIST.",
    ];
    looks.iter().any(|look| subject.starts_with(look))
}

#[cfg(test)]
mod tests {
    use super::is_look;

    #[test]
    fn what_changes_something_is_no_look() {
        for look in [
            "INFO",
            "STREAM.INFO.A",
            "STREAM.MSG.GET.A",
            "CONSUMER.LIST.A",
        ] {
            assert!(is_look(look), "{look}");
        }
        for change in [
            "STREAM.CREATE.A",
            "CONSUMER.CREATE.A.INFO.c",
            "STREAM.UPDATE.A",
        ] {
            assert!(!is_look(change), "{change}");
        }
    }
}
