//! The nearest right name for a wrong one.

/// The name that was probably meant: few edits away, in any case.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let lower = word.to_lowercase();
    let far = (lower.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| {
            let distance = strsim::damerau_levenshtein(&lower, &name.to_lowercase());
            (distance, name)
        })
        .min()
        .filter(|(distance, _)| *distance <= far)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_near_and_nothing_else() {
        let keys = ["command", "cron", "timeout", "timezone"];
        assert_eq!(nearest("comand", keys), Some("command"));
        assert_eq!(nearest("Timeout", keys), Some("timeout"));
        assert_eq!(nearest("corn", keys), Some("cron"));
        assert_eq!(nearest("zzz", keys), None);
    }
}
