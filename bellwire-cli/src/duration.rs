//! Durations on the command line: `250ms`, `5s`, `2m`, `1h`, or a number of seconds.

use std::time::Duration;

const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
const LONGEST: f64 = 30.0 * 86_400.0;

pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)))
        .unwrap_or((text, 1.0));
    match number.trim().parse::<f64>().map(|number| number * unit) {
        Ok(seconds) if (0.001..=LONGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a time: write 250ms, 5s, 2m or 1h, from 1 ms to 30 days".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("1.5s", 1_500), ("2m", 120_000), ("7", 7_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "0", "-1s", "5 apples", "nan", "inf", "1e99h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
