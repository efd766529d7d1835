//! Schedules as the cron library of Kubernetes reads them (robfig/cron) → ours.

/// When a CronJob is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// A crontab expression.
    Cron(String),
    /// `@every`, in whole seconds.
    Every(u64),
}

/// A schedule without the zone in front of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule<'s> {
    pub(super) zone: Option<&'s str>,
    pub(super) when: When,
}

pub(super) fn read(text: &str) -> Result<Schedule<'_>, String> {
    let mut rest = text.trim();
    let mut zone = None;
    for prefix in ["CRON_TZ=", "TZ="] {
        if let Some(behind) = rest.strip_prefix(prefix) {
            let (name, behind) = behind
                .split_once(char::is_whitespace)
                .unwrap_or((behind, ""));
            (zone, rest) = (Some(name), behind.trim());
            break;
        }
    }
    let when = match rest.strip_prefix("@every ") {
        Some(length) => {
            let seconds = go_duration(length.trim());
            let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0);
            let seconds = seconds.ok_or_else(|| format!("`{length}` is not a duration of Go"))?;
            When::Every(whole(seconds))
        }
        None => When::Cron(fields(rest)),
    };
    Ok(Schedule { zone, when })
}

/// The library cuts to whole seconds, and waits for one at least.
fn whole(seconds: f64) -> u64 {
    let seconds = seconds.clamp(1.0, 1e10);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 1e10"
    )]
    let whole = seconds as u64;
    whole
}

/// `?` is `*`. A day field `*/2` counts as restricted there: a day that fits the other one is enough.
fn fields(text: &str) -> String {
    let mut fields: Vec<_> = text
        .split_whitespace()
        .map(|field| field.replace('?', "*"))
        .collect();
    if let [_, _, day, _, weekday] = fields.as_mut_slice() {
        let steps = |field: &str| field.strip_prefix("*/").is_some_and(|step| step != "1");
        let (day_steps, weekday_steps) = (steps(day), steps(weekday));
        let restricted = |field: &str, steps: bool| steps || !field.starts_with('*');
        if restricted(day, day_steps) && restricted(weekday, weekday_steps) {
            if day_steps {
                *day = day.replacen('*', "1-31", 1);
            }
            if weekday_steps {
                *weekday = weekday.replacen('*', "0-6", 1);
            }
        }
    }
    match fields.as_slice() {
        [only] => only.to_lowercase(),
        _ => fields.join(" "),
    }
}

/// `1h30m`, `1.5h`, `90s`, `500ms`
fn go_duration(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let factor = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_of_kubernetes() {
        for (text, zone, when) in [
            ("0 5 * * *", None, When::Cron("0 5 * * *".to_owned())),
            (
                "CRON_TZ=Asia/Tokyo 0 5 ? * MON",
                Some("Asia/Tokyo"),
                When::Cron("0 5 * * MON".to_owned()),
            ),
            (
                "TZ=UTC @daily",
                Some("UTC"),
                When::Cron("@daily".to_owned()),
            ),
            ("@every 1h30m", None, When::Every(5_400)),
            ("@every 1.5h", None, When::Every(5_400)),
            ("@every 100ms", None, When::Every(1)),
            ("0 0 */2 * 1", None, When::Cron("0 0 1-31/2 * 1".to_owned())),
            ("0 0 1 * */2", None, When::Cron("0 0 1 * 0-6/2".to_owned())),
            ("0 0 */2 * *", None, When::Cron("0 0 */2 * *".to_owned())),
        ] {
            assert_eq!(read(text), Ok(Schedule { zone, when }), "{text}");
        }
        for bad in ["@every soon", "@every 5", "@every -1h", "@every 0s"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
