//! Sizes: a number of bytes, or a text such as `1 MiB`.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::reader::{Item, Reader};

/// Most bytes of output that can be kept of a run.
const MAX_OUTPUT: u64 = 1 << 30;

/// At most a gibibyte.
pub(super) fn size(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<u64> {
    size_within(reader, key, item, 0..=MAX_OUTPUT)
}

/// A number of bytes, or a text such as `1 MiB`.
pub(super) fn size_within(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
    bounds: RangeInclusive<u64>,
) -> Option<u64> {
    let (least, most) = bounds.clone().into_inner();
    let DeValue::String(text) = item.get_ref() else {
        let DeValue::Integer(_) = item.get_ref() else {
            reader.mismatch(
                key,
                item,
                "a number of bytes or a text such as \"1 MiB\"",
                None,
            );
            return None;
        };
        return reader.integer(key, item, least.cast_signed()..=most.cast_signed());
    };
    let size = parse_size(text);
    if size.is_none_or(|size| !bounds.contains(&size)) {
        let range = match least {
            0 => format!("up to {}", shown(most)),
            _ => format!("from {} to {}", shown(least), shown(most)),
        };
        let message = format!("`{key}`: `{text}` is not a size {range}");
        let help = "write for example \"64 KiB\", \"1 MiB\" or a number of bytes".to_owned();
        reader.error_with_help(item.span(), message, Some(help));
        return None;
    }
    size
}

/// A power of two in its largest unit.
fn shown(size: u64) -> String {
    let units = [(50, "PiB"), (30, "GiB"), (20, "MiB")];
    let unit = units.iter().find(|(bits, _)| size >> bits > 0);
    unit.map_or(format!("{size} bytes"), |(bits, unit)| {
        format!("{} {unit}", size >> bits)
    })
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim().trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text
        .trim()
        .strip_prefix(digits)?
        .trim()
        .to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("1 MiB"), Some(1 << 20));
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size(" 10 mb "), Some(10_000_000));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("512M"), Some(512 << 20));
        assert_eq!(parse_size("2 TiB"), Some(2 << 40));
        for bad in ["", "MiB", "1 XiB", "-1", "1.5 MiB", "99999999999999999999"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
