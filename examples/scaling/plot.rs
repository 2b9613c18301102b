//! The plot: size and CPU time, each against the smallest size. An SVG file for light and dark pages.

use crate::{
    Series,
    chart::{Axis, Chart},
};

const STYLE: &str = "
svg { --text: #1f2328; --grid: #d8dee4; font: 12px sans-serif; }
@media (prefers-color-scheme: dark) { svg { --text: #e6edf3; --grid: #3d444d; } }
text { fill: var(--text); }
.grid { stroke: var(--grid); fill: none; }
.line { fill: none; stroke-width: 2; }
.line.callers { stroke: #cf222e; } .bar.callers { fill: #cf222e; }
.line.connections { stroke: #0969da; } .bar.connections { fill: #0969da; }
.line.subscribers { stroke: #2da44e; } .bar.subscribers { fill: #2da44e; }
.line.topics { stroke: #bf8700; } .bar.topics { fill: #bf8700; }
.line.history { stroke: #8250df; } .bar.history { fill: #8250df; }
.line.proportional { stroke: var(--text); stroke-dasharray: 5 3; } .bar.proportional { fill: var(--text); }
";

pub(crate) fn svg(all: &[Series]) -> String {
    let lines: Vec<_> = all.iter().map(|series| (series.work.name(), relative(series))).collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let largest = points().map(|point| point.0).fold(1.0, f64::max);
    let dearest = points().map(|point| point.1).fold(largest, f64::max);
    let mut chart = Chart::new(
        Axis::logarithmic("size against the smallest", 1.0, largest),
        Axis::logarithmic("CPU time", 1.0, dearest),
    );
    chart.line("proportional", "proportional", &[(1.0, 1.0), (largest, largest)]);
    for (name, points) in &lines {
        chart.line(name, name, points);
    }
    chart.file("CPU time by size", STYLE)
}

/// Each size and its time, against those of the smallest.
fn relative(Series { sizes, .. }: &Series) -> Vec<(f64, f64)> {
    let (smallest, least) = sizes[0];
    let time = |time: std::time::Duration| time.as_secs_f64() / least.as_secs_f64();
    sizes.iter().map(|(size, took)| (*size as f64 / smallest as f64, time(*took))).collect()
}
