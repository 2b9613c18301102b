//! The plots: SVG files that need no other file, for light and dark pages.

use std::fmt::Write;

use crate::{
    results::{Figure, Results},
    tables::short,
    work::{AUDIENCES, DEPTHS, Work},
};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 64.0;
/// The names of the rows stand to the right of the plot.
const RIGHT: f64 = 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;
const BAR: f64 = 22.0;
/// Distance of two names.
const LINE: f64 = 15.0;

const STYLE: &str = "
svg { --text: #1f2328; --grid: #d8dee4; --own: #cf222e; font: 12px sans-serif; }
@media (prefers-color-scheme: dark) { svg { --text: #e6edf3; --grid: #3d444d; --own: #ff7b72; } }
text { fill: var(--text); }
.grid { stroke: var(--grid); fill: none; }
.line { fill: none; stroke-width: 1.5; }
.bare { stroke-dasharray: 5 3; }
.own { stroke: var(--own); stroke-width: 3; }
.bar.own { fill: var(--own); stroke: none; }
";

/// Colours that can be seen on white and on black, one for each row in turn.
const COLOURS: [&str; 10] = [
    "#6e7781", "#8c959f", "#57606a", "#cf222e", "#0969da", "#218bff", "#2da44e", "#bf8700",
    "#8250df", "#bc4c00",
];

/// A figure by the requests in flight, one line for each row, on a logarithmic scale.
pub fn by_depth(results: &Results, figure: Figure) -> String {
    let title = match figure {
        Figure::PerSecond => "requests per second, by requests in flight",
        _ => "CPU seconds per million requests, by requests in flight",
    };
    let lines: Vec<_> = Work::InFlight(1)
        .rows()
        .into_iter()
        .zip(COLOURS)
        .map(|(row, colour)| Line { points: points(results, &row, figure), row, colour })
        .filter(|line| !line.points.is_empty())
        .collect();
    let values = || lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
    let scale = Scale::new(values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let mut svg = Svg::new(title, HEIGHT);
    svg.depth_axes(&scale);
    for Line { row, colour, points } in &lines {
        let places = points.iter().map(|(x, value)| format!("{x:.1},{:.1}", scale.top(*value)));
        let places = places.collect::<Vec<_>>().join(" ");
        let class = class_of(row);
        svg.add(format_args!(
            "<polyline class=\"line {class}\" stroke=\"{colour}\" points=\"{places}\"/>"
        ));
    }
    svg.names(&lines, &scale);
    svg.finish()
}

/// Deliveries per second, one bar for each row.
pub fn fan_out(results: &Results) -> String {
    let rate = |work, row: &str| results.median(work, row, Figure::PerSecond);
    let rows = Work::FanOut(AUDIENCES[0]).rows();
    let bars: Vec<_> = AUDIENCES
        .iter()
        .flat_map(|count| rows.iter().map(move |row| (*count, row)))
        .filter_map(|(count, row)| Some((count, row, rate(Work::FanOut(count), row)?)))
        .collect();
    let most = bars.iter().map(|bar| bar.2).fold(1.0, f64::max);
    let mut svg = Svg::new("deliveries per second", TOP + bars.len() as f64 * BAR + 16.0);
    for (number, (count, row, rate)) in bars.iter().enumerate() {
        let top = TOP + number as f64 * BAR;
        let width = rate / most * (WIDTH - 250.0 - 80.0);
        let (class, colour) = (class_of(row), COLOURS[4]);
        svg.text(240.0, top + 14.0, "end", &format!("{row}, {count}"));
        svg.add(format_args!(
            "<rect class=\"bar {class}\" fill=\"{colour}\" x=\"250\" y=\"{top:.1}\" \
             width=\"{width:.1}\" height=\"{:.1}\"/>",
            BAR - 5.0
        ));
        svg.text(256.0 + width, top + 14.0, "start", &short(*rate));
    }
    svg.finish()
}

/// The position of each depth, with its value.
fn points(results: &Results, row: &str, figure: Figure) -> Vec<(f64, f64)> {
    let value = |depth| results.median(Work::InFlight(depth), row, figure);
    DEPTHS.iter().enumerate().filter_map(|(at, depth)| Some((left(at), value(*depth)?))).collect()
}

fn left(at: usize) -> f64 {
    let step = (WIDTH - LEFT - RIGHT) / (DEPTHS.len() - 1) as f64;
    LEFT + at as f64 * step
}

fn class_of(row: &str) -> &'static str {
    match row {
        own if own.starts_with("bellwire") => "own",
        bare if bare.starts_with("bare") => "bare",
        _ => "peer",
    }
}

/// A row, and the position of its line.
struct Line {
    row: String,
    colour: &'static str,
    /// The position of each depth, with its value.
    points: Vec<(f64, f64)>,
}

/// Whole powers of ten from the bottom to the top.
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    fn new(least: f64, most: f64) -> Self {
        if !(least > 0.0 && least.is_finite()) {
            return Self { first: 0, last: 1 };
        }
        let first = least.log10().floor() as i32;
        Self { first, last: (most.log10().ceil() as i32).max(first + 1) }
    }

    fn top(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

/// A file under construction.
struct Svg(String);

impl Svg {
    fn new(title: &str, height: f64) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n"
        ));
        svg.text(8.0, 18.0, "start", title);
        svg
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a String takes everything");
    }

    /// `text` needs no escapes: it is a name or a number.
    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn depth_axes(&mut self, scale: &Scale) {
        for (at, depth) in DEPTHS.iter().enumerate() {
            let x = left(at);
            self.add(format_args!(
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{}\"/>",
                HEIGHT - BOTTOM
            ));
            self.text(x, HEIGHT - BOTTOM + 18.0, "middle", &depth.to_string());
        }
        for power in scale.first..=scale.last {
            let value = 10_f64.powi(power);
            let y = scale.top(value);
            self.add(format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT));
            self.text(LEFT - 6.0, y + 4.0, "end", &short(value));
        }
    }

    /// The name of each line beside its last point, moved down where names would cover each other.
    fn names(&mut self, lines: &[Line], scale: &Scale) {
        let last = |line: &Line| line.points.last().map_or(0.0, |point| scale.top(point.1));
        let mut names: Vec<_> = lines.iter().map(|line| (last(line), line)).collect();
        names.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (x, count) = (WIDTH - RIGHT + 10.0, names.len());
        let mut above = f64::NEG_INFINITY;
        for (at, (y, Line { row, colour, .. })) in names.into_iter().enumerate() {
            // Those behind it need space, too.
            let lowest = HEIGHT - (count - at) as f64 * LINE;
            let y = y.min(lowest).max(above + LINE);
            above = y;
            let (class, mark) = (class_of(row), y - 4.0);
            self.add(format_args!(
                "<path class=\"line {class}\" stroke=\"{colour}\" d=\"M{x} {mark:.1}h18\"/>"
            ));
            self.text(x + 24.0, y, "start", row);
        }
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}
