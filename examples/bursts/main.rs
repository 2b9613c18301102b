//! Publishes in a loop to readers that keep up, in every way, and counts what they lose:
//! `cargo run --release --example bursts -- --rounds 50`
//!
//! With the defaults of both ends no reader loses anything. It fails if one does.

#[macro_use]
#[path = "../shared/print.rs"]
mod print;
mod burst;

use std::{process::ExitCode, time::Instant};

use clap::Parser;

use burst::{Burst, By};

/// Publishes in a loop to readers that keep up, and counts what they lose.
#[derive(Parser)]
struct Args {
    /// How often each burst is tried
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Messages of a burst
    #[arg(long, default_value_t = 20_000)]
    messages: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut has_lost = false;
    for burst in all(args.messages) {
        let (begun, mut lost, mut most) = (Instant::now(), 0, 0);
        for _ in 0..args.rounds {
            let outcome = burst.run();
            lost += usize::from(outcome.lost > 0);
            most = most.max(outcome.lost);
        }
        let each = begun.elapsed() / u32::try_from(args.rounds.max(1)).unwrap_or(u32::MAX);
        println!("{burst}: {lost} of {} lost, at most {most}; {each:.0?} each", args.rounds);
        has_lost |= lost > 0;
    }
    if has_lost { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn all(messages: usize) -> Vec<Burst> {
    let base = Burst { messages, ..Burst::default() };
    let ways = [
        By::Root,
        By::Task,
        By::Handler,
        By::Client,
        By::PipeliningClient,
        By::Blocking,
        By::Thread,
    ];
    let mut all = Vec::new();
    for (workers, is_tcp) in [(0, true), (0, false), (2, true), (2, false)] {
        let base = Burst { workers, is_tcp, ..base };
        all.extend(ways.map(|by| Burst { by, ..base }));
        all.push(Burst { topics: 4, ..base });
        all.push(Burst { readers: 4, ..base });
    }
    all
}
