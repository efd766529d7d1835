//! Gives a beat that began a lost installation anew what this one has kept of it.

use super::{
    BeatError, OwnState,
    shared::{encode, read_watermark},
    states::States,
};
use crate::{
    broker::{Bucket, Cas, Durability, SharedBroker},
    plan::WATERMARK_KEY,
};

/// What was lost is shared again, and goes on in what was begun without it.
pub(super) async fn share_again(broker: &SharedBroker, own: &OwnState) -> Result<(), BeatError> {
    if let Some((kept_at, kept)) = own.load()? {
        let mut states = States::read(broker).await?;
        let begun = kept.iter().filter_map(|(name, kept)| {
            let begun = states.get(name)?;
            Some((name.clone(), kept.goes_on_in(begun, kept_at.at)?))
        });
        let begun = begun.collect();
        states.write(broker, begun).await?;
        states.restore(broker, kept, false).await?;
    }
    own.others()?.restore(broker).await?;
    // It reads the states again when it finds that somebody wrote the watermark.
    touch_watermark(broker).await
}

async fn touch_watermark(broker: &SharedBroker) -> Result<(), BeatError> {
    let (watermark, revision) = read_watermark(broker.as_ref()).await?;
    let Some(watermark) = watermark else {
        return Err(BeatError::Overtaken);
    };
    let value = encode(WATERMARK_KEY, &watermark)?;
    let touched = broker.compare_and_set(
        Bucket::State,
        WATERMARK_KEY,
        revision,
        value,
        Durability::Power,
    );
    match touched.await? {
        Cas::Done(_) => Ok(()),
        Cas::Conflict => Err(BeatError::Overtaken),
    }
}
