//! The only place where beat and worker draw lots: pauses that are spread, names that nobody else has.

use uuid::Uuid;

/// A random number in `0.0..1.0`.
pub(crate) fn fraction() -> f64 {
    let [a, b, c, d, ..] = *uuid().as_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

/// A name that was never given before.
pub(crate) fn uuid() -> Uuid {
    #[cfg(feature = "simulation")]
    if let Some([high, low]) =
        crate::clock::simulated::ask(|world| [(); 2].map(|()| world.random()))
    {
        return uuid::Builder::from_random_bytes(
            ((u128::from(high) << 64) | u128::from(low)).to_be_bytes(),
        )
        .into_uuid();
    }
    Uuid::new_v4()
}
