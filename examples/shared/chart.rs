//! Plots as SVG: axes, lines and bars, without a library.

#![allow(dead_code, reason = "each program uses its part")]

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 48.0;

/// How values map to positions along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

/// An axis: its range, its ticks and its title.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
    title: &'static str,
}

impl Axis {
    /// From 0 to a round number that is not below `most`.
    pub(crate) fn linear(title: &'static str, most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let step = round_step(most / 5.0);
        let steps = (most / step).ceil().max(1.0) as u32;
        let ticks = (0..=steps).map(|n| f64::from(n) * step);
        let ticks = ticks.map(|value| (value, short(value))).collect();
        Self { scale: Scale::Linear, from: 0.0, to: f64::from(steps) * step, ticks, title }
    }

    /// Over whole powers of ten.
    pub(crate) fn logarithmic(title: &'static str, least: f64, most: f64) -> Self {
        let first = least.max(1e-3).log10().floor() as i32;
        let last = (most.max(1e-3).log10().ceil() as i32).max(first + 1);
        let ticks = (first..=last).map(|power| 10_f64.powi(power));
        let ticks = ticks.map(|value| (value, short(value))).collect();
        let (from, to) = (10_f64.powi(first), 10_f64.powi(last));
        Self { scale: Scale::Logarithmic, from, to, ticks, title }
    }

    /// Percentiles by the share beyond them: from 0 % over 90 %, 99 % and so on to the last with
    /// `least` beyond it.
    pub(crate) fn percentiles(title: &'static str, least: f64) -> Self {
        let last = (-least.min(0.1).log10()).ceil() as usize;
        let tick = |power: usize| {
            let label = match power {
                0 => "0 %".into(),
                1 => "90 %".into(),
                2 => "99 %".into(),
                _ => format!("99.{} %", "9".repeat(power - 2)),
            };
            (10_f64.powi(-(power as i32)), label)
        };
        let ticks = (0..=last).map(tick).collect();
        let to = 10_f64.powi(-(last as i32));
        Self { scale: Scale::Logarithmic, from: 1.0, to, ticks, title }
    }

    /// The position of `value`, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value / self.from).log10() / (self.to / self.from).log10(),
        };
        place.clamp(0.0, 1.0)
    }
}

/// A plot under construction.
#[derive(Debug)]
pub(crate) struct Chart {
    x: Axis,
    y: Axis,
    body: String,
    legend: Vec<(&'static str, String)>,
}

impl Chart {
    pub(crate) fn new(x: Axis, y: Axis) -> Self {
        Self { x, y, body: String::new(), legend: Vec::new() }
    }

    /// A line through `points`, in the colour of the class `class`.
    pub(crate) fn line(&mut self, class: &'static str, name: &str, points: &[(f64, f64)]) {
        let places =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.left(*x), self.top(*y)));
        let places = places.collect::<Vec<_>>().join(" ");
        push(
            &mut self.body,
            format_args!("<polyline class=\"line {class}\" points=\"{places}\"/>"),
        );
        self.legend.push((class, name.into()));
    }

    /// A bar for each pair of bounds, as high as the third number.
    pub(crate) fn bars(&mut self, class: &'static str, name: &str, bars: &[(f64, f64, f64)]) {
        for (from, to, height) in bars {
            let (left, right, top) = (self.left(*from), self.left(*to), self.top(*height));
            let (width, height) = ((right - left - 1.0).max(1.0), HEIGHT - BOTTOM - top);
            push(
                &mut self.body,
                format_args!(
                    "<rect class=\"bar {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
                     height=\"{height:.1}\"/>"
                ),
            );
        }
        self.legend.push((class, name.into()));
    }

    /// The whole `svg` element of a page, whose styles it takes; `id` names it, and `title` describes it
    /// to a screen reader.
    pub(crate) fn svg(&self, id: &str, title: &str) -> String {
        self.element(&format!("id=\"{id}\""), title)
    }

    /// A complete file, with these styles.
    pub(crate) fn file(&self, title: &str, style: &str) -> String {
        let element = self.element("xmlns=\"http://www.w3.org/2000/svg\"", title);
        element.replacen("</title>\n", &format!("</title>\n<style>{style}</style>\n"), 1)
    }

    fn element(&self, attributes: &str, title: &str) -> String {
        let mut svg = format!(
            "<svg {attributes} viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}</title>\n",
            escape(title)
        );
        self.x_axis(&mut svg);
        self.y_axis(&mut svg);
        self.names(&mut svg);
        svg.push_str(&self.body);
        svg.push_str("</svg>\n");
        svg
    }

    fn x_axis(&self, svg: &mut String) {
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        for (value, label) in &self.x.ticks {
            let x = self.left(*value);
            push(
                svg,
                format_args!("<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>{}", {
                    text(x, bottom + 18.0, "middle", label)
                }),
            );
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        push(svg, format_args!("{}", text(middle, HEIGHT - 8.0, "middle", self.x.title)));
    }

    fn y_axis(&self, svg: &mut String) {
        let right = WIDTH - RIGHT;
        for (value, label) in &self.y.ticks {
            let y = self.top(*value);
            push(
                svg,
                format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>{}", {
                    text(LEFT - 6.0, y + 4.0, "end", label)
                }),
            );
        }
        push(svg, format_args!("{}", text(8.0, 16.0, "start", self.y.title)));
    }

    fn names(&self, svg: &mut String) {
        let mut x = WIDTH - RIGHT;
        for (class, name) in self.legend.iter().rev() {
            push(svg, format_args!("{}", text(x, 16.0, "end", name)));
            // About 6.5 units a letter in the font of the page.
            x -= 6.5 * name.chars().count() as f64 + 16.0;
            push(
                svg,
                format_args!(
                    "<rect class=\"bar {class}\" x=\"{x:.1}\" y=\"8\" width=\"10\" height=\"10\"/>"
                ),
            );
            x -= 14.0;
        }
    }

    fn left(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn top(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a String takes everything");
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text))
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    factors.map(|factor| factor * power).into_iter().find(|step| *step >= least).unwrap_or(least)
}

/// As few digits as name the value: 1.5 k, 20 M.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        large if large >= 1e6 => (large / 1e6, " M"),
        large if large >= 1e3 => (large / 1e3, " k"),
        small => (small, ""),
    };
    let digits = format!("{value:.3}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// Escapes `text` for use between tags and in a quoted attribute. Control characters, which XML
/// does not allow, become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => html.push('\u{fffd}'),
            other if other.is_control() => html.push('\u{fffd}'),
            other => html.push(other),
        }
    }
    html
}
