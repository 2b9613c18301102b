//! The results as markdown tables, beside the plots.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    chart,
    results::{Figure, Results},
    targets::{self, BARE, BELLWIRE, Limit, PEERS},
    work::{AUDIENCES, DEPTHS, SUBSCRIPTIONS, THINKING, Work},
};

const INTRODUCTION: &str = "\
Both ends share one process and one runtime of two workers; redis-server and nats-server are processes of
their own on the same cores. All connections are on the loopback device, and payloads have 32 bytes (fan-out:
64). Each measurement is a fresh process, and the rows take turns. The figures are medians over the rounds.
CPU is that of all processes involved, load included. A ratio is computed within each round, against the best
row of that round; the median of the ratios is shown.

The bare rows are the least that one can write by hand, without any guarantee. They differ in when they
write: *yield-first* yields once before the first write after a wake-up, *yield-each* before each write,
*at-once* never.
";

/// Writes `peers.md` and the plots beside it.
pub fn write(results: &Results, machine: &str, out: &Path, note: Option<&str>) -> Result<()> {
    let page = page(results, machine, note)?;
    save(out.join("peers.md"), &page)?;
    save(out.join("requests.svg"), &chart::by_depth(results, Figure::PerSecond))?;
    save(out.join("cpu.svg"), &chart::by_depth(results, Figure::CpuPerMillion))?;
    save(out.join("fan-out.svg"), &chart::fan_out(results))?;
    println!("{page}");
    Ok(())
}

fn save(path: PathBuf, text: &str) -> Result<()> {
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn page(results: &Results, machine: &str, note: Option<&str>) -> Result<String> {
    let mut page = String::from("# bellwire beside its peers\n\n");
    writeln!(page, "Written by `benches/peers/run.sh`.")?;
    if let Some(note) = note {
        writeln!(page, "\n**{note}**")?;
    }
    writeln!(page, "\n{machine}")?;
    writeln!(
        page,
        "Rounds: {}. Other programs kept at most {:.2} cores busy during a measurement.\n\n{INTRODUCTION}",
        results.rounds(),
        results.most_foreign_cores()
    )?;
    in_flight(&mut page, results)?;
    other_loads(&mut page, results)?;
    fan_out(&mut page, results)?;
    memory(&mut page, results)?;
    write_targets(&mut page, results)?;
    write_failures(&mut page, results)?;
    Ok(page)
}

fn in_flight(page: &mut String, results: &Results) -> Result<()> {
    let works = DEPTHS.map(Work::InFlight);
    writeln!(page, "## Requests in flight on one connection\n")?;
    writeln!(page, "![requests per second](requests.svg)\n\n![CPU per million](cpu.svg)\n")?;
    writeln!(page, "Requests/s / CPU seconds per million:\n")?;
    table(page, results, &works, rate_and_cpu)?;
    ratios(page, results, &works)?;
    writeln!(page, "\nLatency, p50 / p99 in µs:\n")?;
    table(page, results, &works, latency)
}

fn other_loads(page: &mut String, results: &Results) -> Result<()> {
    let mut works = THINKING.map(Work::Thinking).to_vec();
    works.extend([Work::SlowHandlers, Work::ManyConnections]);
    writeln!(
        page,
        "\n## Other loads\n\n\
         Callers that think compute for up to 20 µs between two requests, on one connection; this is about\n\
         10 of their CPU seconds per million. With slow handlers, one in ten takes 1 ms, with 64 in flight on\n\
         one connection. The last column is 100 connections with 16 callers each.\n\nRequests/s / CPU seconds per million:\n"
    )?;
    table(page, results, &works, rate_and_cpu)?;
    ratios(page, results, &works)?;
    writeln!(page, "\nLatency, p50 / p99 in µs:\n")?;
    table(page, results, &works, latency)
}

fn fan_out(page: &mut String, results: &Results) -> Result<()> {
    writeln!(
        page,
        "\n## Fan-out\n\n![deliveries per second](fan-out.svg)\n\n\
         Deliveries/s / CPU seconds per million. *Sockets* only count what arrives; the other rows decode\n\
         it with the client named.\n"
    )?;
    table(page, results, &AUDIENCES.map(Work::FanOut), rate_and_cpu)
}

fn memory(page: &mut String, results: &Results) -> Result<()> {
    writeln!(page, "\n## Memory\n\nResident bytes of the server for each idle connection:\n")?;
    writeln!(page, "| | subscribed to one topic | each further subscription |\n|---|---|---|")?;
    for row in Work::Memory(1).rows() {
        if let Some(bytes) = results.median(Work::Memory(1), &row, Figure::Bytes) {
            let further = targets::further_subscription(results, &row);
            let further = further.map_or("–".into(), |bytes| format!("{bytes:.0}"));
            writeln!(page, "| {} | {bytes:.0} | {further} |", label(&row))?;
        }
    }
    writeln!(
        page,
        "\n*bare* is not subscribed. The last column compares {SUBSCRIPTIONS} subscriptions with one.\n"
    )?;
    Ok(())
}

fn write_targets(page: &mut String, results: &Results) -> Result<()> {
    writeln!(page, "## Targets\n\n| | reached | target | |\n|---|---|---|---|")?;
    for target in targets::all(results) {
        let (word, limit) = match target.limit {
            Limit::AtLeast(limit) => ("at least", limit),
            Limit::AtMost(limit) => ("at most", limit),
        };
        let reached = target.reached.map_or("–".into(), number);
        let verdict = match target.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let limit = number(limit);
        writeln!(page, "| {} | {reached} | {word} {limit} | {verdict} |", target.what)?;
    }
    Ok(())
}

fn write_failures(page: &mut String, results: &Results) -> Result<()> {
    for (index, (entry, message)) in results.failures().enumerate() {
        if index == 0 {
            writeln!(page, "\n## Failed measurements\n")?;
        }
        let (round, work) = (entry.round + 1, entry.work.title());
        writeln!(page, "- round {round}, {work}, {}: {}", entry.row, message.replace('\n', " "))?;
    }
    Ok(())
}

/// A row for each name, and a column for each work.
fn table(
    page: &mut String,
    results: &Results,
    works: &[Work],
    cell: fn(&Results, Work, &str) -> Option<String>,
) -> Result<()> {
    head(page, works)?;
    let mut rows: Vec<String> = Vec::new();
    for row in works.iter().flat_map(|work| work.rows()) {
        if !rows.contains(&row) && works.iter().any(|work| results.has(*work, &row)) {
            rows.push(row);
        }
    }
    for row in &rows {
        let cells = works.iter().map(|work| cell(results, *work, row).unwrap_or("–".into()));
        writeln!(page, "| {} | {} |", label(row), cells.collect::<Vec<_>>().join(" | "))?;
    }
    Ok(())
}

fn head(page: &mut String, works: &[Work]) -> Result<()> {
    let titles: Vec<_> = works.iter().map(|work| work.title()).collect();
    writeln!(page, "| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(works.len()))?;
    Ok(())
}

/// bellwire against the best of the others, with the table of these others above.
fn ratios(page: &mut String, results: &Results, works: &[Work]) -> Result<()> {
    let lines = [
        ("requests/s against the best bare row", &BARE[..], Figure::PerSecond),
        ("CPU against the best bare row", &BARE, Figure::CpuPerMillion),
        ("requests/s against the best peer", &PEERS, Figure::PerSecond),
    ];
    writeln!(page, "\nbellwire in the same round:\n")?;
    head(page, works)?;
    for (what, others, figure) in lines {
        let ratio = |work: &Work| results.ratio(*work, BELLWIRE, others, figure);
        let cells = works.iter().map(|work| ratio(work).map_or("–".into(), number));
        writeln!(page, "| {what} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    Ok(())
}

fn rate_and_cpu(results: &Results, work: Work, row: &str) -> Option<String> {
    let rate = results.median(work, row, Figure::PerSecond)?;
    let cpu = results.median(work, row, Figure::CpuPerMillion)?;
    Some(format!("{} / {}", short(rate), number(cpu)))
}

fn latency(results: &Results, work: Work, row: &str) -> Option<String> {
    let p50 = results.median(work, row, Figure::P50)?;
    let p99 = results.median(work, row, Figure::P99)?;
    Some(format!("{} / {}", number(p50), number(p99)))
}

fn label(row: &str) -> String {
    match row.starts_with(BELLWIRE) {
        true => format!("**{row}**"),
        false => row.into(),
    }
}

/// Three digits, and k or M.
pub fn short(value: f64) -> String {
    match value {
        large if large >= 1e6 => format!("{} M", number(large / 1e6)),
        large if large >= 1e3 => format!("{} k", number(large / 1e3)),
        small => number(small),
    }
}

/// Three digits.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        large if large >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
