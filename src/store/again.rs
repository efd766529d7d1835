//! Opens a store again that has failed.

use std::{path::PathBuf, thread};

use tokio::sync::oneshot;

use super::{Store, StoreError};

impl Store {
    /// Closes `failed` and opens the store in `directory` again, as [`Store::open_or_set_aside`] does, on a thread of its own:
    /// on a disk that hangs neither may ever end, and the process is to end all the same. `None`: there is no thread.
    pub fn open_again(
        directory: PathBuf,
        failed: Option<Self>,
    ) -> Option<oneshot::Receiver<Result<Self, StoreError>>> {
        let (tell, told) = oneshot::channel();
        let thread = thread::Builder::new().name("store opens".to_owned());
        let opening = thread.spawn(move || {
            drop(failed);
            let opened = Self::open_or_set_aside(&directory).map(|(store, _)| store);
            // Whoever asked may have ended.
            let _ = tell.send(opened);
        });
        opening.is_ok().then_some(told)
    }
}
