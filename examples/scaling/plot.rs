//! The plot: CPU time against that of the smallest size, both axes by doublings. An SVG file for light
//! and dark pages.

use std::fmt::Write;

use crate::Series;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;
/// Distance of two names.
const LINE: f64 = 16.0;

const STYLE: &str = "
svg { --text: #1f2328; --grid: #d8dee4; font: 12px sans-serif; }
@media (prefers-color-scheme: dark) { svg { --text: #e6edf3; --grid: #3d444d; } }
text { fill: var(--text); }
.grid { stroke: var(--grid); fill: none; }
.line { fill: none; stroke-width: 2; }
.double { stroke: var(--text); stroke-dasharray: 5 3; }
";

/// Colours that can be seen on white and on black.
const COLOURS: [&str; 5] = ["#cf222e", "#0969da", "#2da44e", "#bf8700", "#8250df"];

pub(crate) fn svg(all: &[Series]) -> String {
    let doublings = all.iter().map(|series| series.sizes.len() - 1).max().unwrap_or(1).max(1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>CPU time by size</title>\n<style>{STYLE}</style>\n"
    );
    let left = |doubling: f64| LEFT + doubling / doublings as f64 * (WIDTH - LEFT - RIGHT);
    let top = |cost: f64| {
        let part = (cost.log2() / (doublings + 1) as f64).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    };
    text(&mut svg, 8.0, 18.0, "CPU time against the smallest size");
    text(&mut svg, LEFT, HEIGHT - 8.0, "size against the smallest");
    for doubling in 0..=doublings {
        let (x, times) = (left(doubling as f64), 1_u64 << doubling);
        element(
            &mut svg,
            format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{}\"/>", HEIGHT - BOTTOM),
        );
        text(&mut svg, x - 6.0, HEIGHT - BOTTOM + 18.0, &format!("×{times}"));
        let y = top(times as f64);
        element(
            &mut svg,
            format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT),
        );
        text(&mut svg, 8.0, y + 4.0, &format!("×{times}"));
    }
    let ideal =
        (0..=doublings).map(|doubling| (left(doubling as f64), top((1_u64 << doubling) as f64)));
    line(&mut svg, "double", "", ideal);
    name(&mut svg, 0, "double", "", "proportional");
    for (at, (Series { work, sizes }, colour)) in all.iter().zip(COLOURS).enumerate() {
        let first = sizes[0].1.as_secs_f64();
        let points = sizes.iter().enumerate();
        let points = points.map(|(n, (_, time))| (left(n as f64), top(time.as_secs_f64() / first)));
        line(&mut svg, "", colour, points);
        name(&mut svg, at + 1, "", colour, work.name());
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, class: &str, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
    let points: Vec<_> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    let stroke = stroke(colour);
    element(svg, format_args!("<polyline class=\"line {class}\"{stroke} points=\"{points}\"/>"));
}

fn name(svg: &mut String, row: usize, class: &str, colour: &str, name: &str) {
    let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 12.0 + row as f64 * LINE);
    let (mark, stroke) = (y - 4.0, stroke(colour));
    element(svg, format_args!("<path class=\"line {class}\"{stroke} d=\"M{x} {mark}h18\"/>"));
    text(svg, x + 24.0, y, name);
}

fn stroke(colour: &str) -> String {
    if colour.is_empty() { String::new() } else { format!(" stroke=\"{colour}\"") }
}

fn text(svg: &mut String, x: f64, y: f64, text: &str) {
    element(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
}

fn element(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a String takes everything");
}
