//! The report as one HTML page. It is also well-formed XML, and needs no other file.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    bench::{
        latency::{Latency, Percentiles},
        report::Report,
    },
    chart::{Axis, Chart, escape},
};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --grid: #d8dee4;
  --first: #0969da; --second: #bc4c00; --third: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --grid: #30363d;
  --first: #58a6ff; --second: #f0883e; --third: #8b949e; } }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--back); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
code { overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th, td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 500; }
.warning { padding: .5rem 1rem; border-left: 4px solid var(--second); }
svg { width: 100%; height: auto; }
svg text { fill: var(--text); font-size: 12px; }
.grid { stroke: var(--grid); fill: none; }
.line { fill: none; stroke-width: 1.5; }
.line.first { stroke: var(--first); } .bar.first { fill: var(--first); }
.line.second { stroke: var(--second); } .bar.second { fill: var(--second); }
.line.third { stroke: var(--third); stroke-dasharray: 4 3; } .bar.third { fill: var(--third); }
";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut body = String::new();
    paragraph(&mut body, &format!("{} UTC", date(SystemTime::now())));
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    writeln!(body, "<p><code>{}</code></p>", escape(&command)).expect(INFALLIBLE);
    if let Some(warning) = report.rate_not_held() {
        writeln!(body, "<p class=\"warning\">{}</p>", escape(&warning)).expect(INFALLIBLE);
    }
    section(&mut body, "Parameters", &table(&report.parameters()));
    section(&mut body, "Totals", &table(&report.totals()));
    calls(&mut body, report);
    notifications(&mut body, report);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>bellwire load test</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>bellwire load test</h1>\n{body}</body>\n</html>\n"
    )
}

const INFALLIBLE: &str = "a String takes everything";

fn calls(body: &mut String, report: &Report) {
    let plots = &report.plots;
    if plots.latency.percentiles().is_none() {
        return paragraph(body, "No call was answered, so there is nothing to plot.");
    }
    section(body, "Throughput over time", &throughput(report));
    let mut curves = vec![("first", latency_name(report), &plots.latency)];
    if report.is_open_loop() {
        curves.push(("second", "from the actual start", &plots.uncorrected));
    }
    section(body, "Latency of the calls", &percentile_table(&curves));
    body.push_str(&distribution("latency-distribution", &curves[0]));
    body.push_str(&percentiles("latency-percentiles", &curves));
}

fn notifications(body: &mut String, report: &Report) {
    if report.plots.delay.percentiles().is_some() {
        let curve = ("first", "from publishing to the subscriber", &report.plots.delay);
        section(body, "Delay of the notifications", &percentile_table(&[curve]));
        body.push_str(&distribution("delay-distribution", &curve));
        body.push_str(&percentiles("delay-percentiles", &[curve]));
    }
}

/// A curve's colour, name and durations.
type Curve<'a> = (&'static str, &'static str, &'a Latency);

fn latency_name(report: &Report) -> &'static str {
    match report.is_open_loop() {
        true => "from when it was due",
        false => "from the call to its reply",
    }
}

fn throughput(report: &Report) -> String {
    let rates = report.plots.timeline.rates(report.seconds);
    let target = report.target_rate();
    let most = rates.iter().map(|(_, rate)| *rate).chain(target).fold(0.0, f64::max);
    let seconds = Axis::linear("seconds", report.seconds);
    let mut chart = Chart::new(seconds, Axis::linear("replies per second", most));
    if let Some(target) = target {
        chart.line("third", "asked for", &[(0.0, target), (report.seconds, target)]);
    }
    chart.line("first", "answered", &rates);
    chart.svg("throughput", "Replies per second over the time of the run")
}

fn distribution(id: &str, (class, name, latency): &Curve<'_>) -> String {
    let percent = |(from, to, share): (f64, f64, f64)| (from, to, 100.0 * share);
    let bars: Vec<_> = latency.bars().into_iter().map(percent).collect();
    let least = bars.first().map_or(1.0, |bar| bar.0);
    let most = bars.last().map_or(10.0, |bar| bar.1);
    let highest = bars.iter().map(|bar| bar.2).fold(0.0, f64::max);
    let x = Axis::logarithmic("microseconds", least, most);
    let mut chart = Chart::new(x, Axis::linear("percent", highest));
    chart.bars(class, name, &bars);
    chart.svg(id, "How many durations fall between two bounds")
}

fn percentiles(id: &str, curves: &[Curve<'_>]) -> String {
    let lines: Vec<_> = curves.iter().map(|(.., latency)| latency.curve()).collect();
    let points = || lines.iter().flatten();
    let beyond = points().map(|point| point.0).fold(0.1, f64::min);
    let least = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    let x = Axis::percentiles("percentile", beyond);
    let mut chart = Chart::new(x, Axis::logarithmic("microseconds", least, most));
    for ((class, name, _), line) in curves.iter().zip(&lines) {
        chart.line(class, name, line);
    }
    chart.svg(id, "The duration at each percentile")
}

fn percentile_table(curves: &[Curve<'_>]) -> String {
    let mut html = String::from(
        "<table>\n<tr><th>µs</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>\n",
    );
    for (_, name, latency) in curves {
        if let Some(Percentiles { p50, p90, p99, p99_9, max }) = latency.percentiles() {
            let cells = [p50, p90, p99, p99_9, max].map(|value| format!("<td>{value:.1}</td>"));
            writeln!(html, "<tr><th>{}</th>{}</tr>", escape(name), cells.concat())
                .expect(INFALLIBLE);
        }
    }
    html + "</table>\n"
}

fn table(rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| {
        format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value))
    };
    format!("<table>\n{}</table>\n", rows.iter().map(row).collect::<String>())
}

fn section(body: &mut String, title: &str, html: &str) {
    writeln!(body, "<h2>{}</h2>\n{html}", escape(title)).expect(INFALLIBLE);
}

fn paragraph(body: &mut String, text: &str) {
    writeln!(body, "<p>{}</p>", escape(text)).expect(INFALLIBLE);
}

/// `2026-01-31 12:00`.
fn date(time: SystemTime) -> String {
    let minutes = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    let (mut days, minute) = (minutes / 1_440, minutes % 1_440);
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02}", days + 1, minute / 60, minute % 60)
}

fn days_of_year(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}
