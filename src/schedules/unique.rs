//! `unique = { key, for, while }`

use super::{
    choices,
    reader::{Item, Reader},
    values::template,
};
use crate::job::{Holds, Unique};

pub(super) const UNIQUE_KEYS: [&str; 3] = ["key", "for", "while"];

pub(super) fn unique(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Unique> {
    let (mut same, mut lasts, mut holds) = (None, None, Holds::default());
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "key" => same = Some(template(reader, "unique.key", value)?),
            "for" => {
                let read = reader.positive("unique.for", value)?;
                if read > Unique::LONGEST {
                    reader.error(value.span(), "`unique.for` is longer than 31 days");
                    return None;
                }
                lasts = Some(read);
            }
            "while" => holds = reader.choice("unique.while", value, &choices::HOLDS)?,
            other => reader.unknown_key(name.span(), other, "`unique`", &UNIQUE_KEYS),
        }
    }
    let Some(key) = same else {
        let help = "write for example unique = { key = \"{arg.url}\", for = \"24h\" }".to_owned();
        reader.error_with_help(item.span(), "`unique` has no `key`", Some(help));
        return None;
    };
    if lasts.is_none() && holds == Holds::Finished {
        let help = "give `for`, or while = \"running\"".to_owned();
        let message = "`unique` without `for` would hold for ever";
        reader.error_with_help(item.span(), message, Some(help));
        return None;
    }
    Some(Unique {
        key,
        lasts: lasts.unwrap_or(Unique::LONGEST),
        holds,
    })
}
