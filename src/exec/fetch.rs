//! Reads a small document over HTTP, for commands.

use std::time::Duration;

use super::http::{Clients, causes};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much is read of it.
const LIMIT: usize = 1 << 20;

/// The body at `url`, or why there is none.
///
/// # Errors
/// Nobody answers in time, the answer is not a success, or it is too long.
pub async fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let client = Clients::default().get()?;
    let mut answer = client
        .get(url)
        .timeout(PATIENCE)
        .send()
        .await
        .map_err(|error| causes(&error))?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| causes(&error))? {
        if body.len() + chunk.len() > LIMIT {
            return Err(format!("it is longer than {LIMIT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
