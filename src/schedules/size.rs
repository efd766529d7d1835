//! Sizes: a number of bytes, or a text such as `1 MiB`.

use toml::de::DeValue;

use super::reader::{Item, Reader};

/// Most bytes of output that can be kept of a run.
const MAX_OUTPUT: u64 = 1 << 30;

/// A number of bytes, or a text such as `1 MiB`.
pub(super) fn size(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<u64> {
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
        return reader.integer(key, item, 0..=MAX_OUTPUT.cast_signed());
    };
    let size = parse_size(text);
    if size.is_none_or(|size| size > MAX_OUTPUT) {
        let message = format!("`{key}`: `{text}` is not a size up to 1 GiB");
        let help = "write for example \"64 KiB\", \"1 MiB\" or a number of bytes".to_owned();
        reader.error_with_help(item.span(), message, Some(help));
        return None;
    }
    size
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
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
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
        for bad in ["", "MiB", "1 TiB", "-1", "1.5 MiB", "99999999999999999999"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
