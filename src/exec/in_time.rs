//! Looks at files, which may lie where nothing answers: on a network that is gone, in a device, in a file system of somebody
//! else. Whoever asks waits for so long and no longer; what is asked for after that goes on by itself.

use std::{thread, time::Duration};

use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// How long a look may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How many looks are under way at once, those included for which nobody waits any more.
const AT_ONCE: usize = 64;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// What `look` finds; `None` if it takes longer than `patience`. A thread of its own looks: nothing can end it, and one of
/// tokio's would keep this process from ending.
pub async fn in_time<T: Send + 'static>(
    patience: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let looking = async {
        let place = PLACES.acquire().await.ok()?;
        let (tell, told) = oneshot::channel();
        let thread = thread::Builder::new().name("look".to_owned());
        let begun = thread.spawn(move || {
            let _place = place;
            // Whoever asked may have gone.
            let _ = tell.send(look());
        });
        begun.ok()?;
        told.await.ok()
    };
    timeout(patience, looking).await.ok()?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_does_not_answer_is_left_to_itself() {
        let (go_on, stuck) = mpsc::channel::<()>();
        let look = move || stuck.recv().is_ok();
        assert_eq!(in_time(Duration::from_millis(20), look).await, None);
        assert_eq!(in_time(PATIENCE, || 1).await, Some(1));
        go_on.send(()).unwrap();
    }
}
