//! What messages and topics may contain.

use crate::{
    protocol::Topic,
    topic::suite::{
        bench::{Bench, topic},
        check::{Checked, same},
        probe::numbered,
        under_test::Limits,
    },
};

/// The longest name.
const LONGEST: usize = 128;
/// Near the longest line of the protocol's default.
const LONG: usize = 65_000;

pub(in crate::topic::suite) async fn payloads(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (name, payloads) = (topic("a"), all_payloads());
    bench.check("publishing");
    for payload in &payloads {
        bench.publish(&name, payload.clone()).await?;
    }
    bench.checkpoint().await;
    bench.check("the window");
    bench.holds(&name, 1, payloads.len() as u64 + 1).await?;
    let mut reader = bench.probe_at(&name, 1).await?;
    let room = crate::topic::Room::new(1, 1, 1 << 20);
    for (number, payload) in (1..).zip(&payloads) {
        let (start, length) = (payload.get(..16).unwrap_or(payload), payload.len());
        bench.check(format!("the payload \"{}\" of {length} bytes", start.escape_ascii()));
        same("read", reader.next(room).await?, numbered(number, [payload]))?;
    }
    Ok(())
}

fn all_payloads() -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = vec![Vec::new()];
    payloads.extend((0..=255).map(|byte| vec![byte]));
    payloads.extend((0..=255).map(|byte| vec![0x10, byte]));
    payloads.push((0..=255).collect());
    payloads.push((0..=255).rev().collect());
    let texts = ["a\nb", "\n\n", "\r\n", " ", "  a  ", "* a 1 x\n", "\u{10}J\u{10}M\u{10}P", "ä€𝄞"];
    payloads.extend(texts.iter().map(|text| text.as_bytes().to_vec()));
    payloads.push(vec![b'x'; LONG]);
    payloads.push(vec![b'\n'; LONG / 2]);
    payloads.push(vec![0; LONG]);
    payloads.push(Vec::new());
    payloads
}

pub(in crate::topic::suite) async fn names(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let names = all_names();
    bench.check("publishing");
    for (n, name) in names.iter().enumerate() {
        bench.check(format!("the first message of {name}"));
        let published = bench.publish(name, format!("of {n}")).await?;
        same("its number", published.sequence, 1)?;
    }
    bench.checkpoint().await;
    for (n, name) in names.iter().enumerate() {
        bench.check(format!("the log of {name}"));
        bench.holds(name, 1, 2).await?;
        bench.has(name, &[format!("of {n}")]).await?;
    }
    Ok(())
}

fn all_names() -> Vec<Topic> {
    let long = |last: &str| format!("{}{last}", "n".repeat(LONGEST - last.len()));
    let dotted = ["s"; LONGEST / 2].join(".");
    let longest = [long(""), long("m"), long(".m"), format!("{dotted}s")];
    let short = [
        "a", "A", "aa", "a.a", "a.b", "a/b", "a_b", "a-b", "axb", "b.a", "0", "00", "-", "_",
        "a.b.c", "con", "null", "topics", "messages", "epoch", "a.1", "a.10", "1", "1.1",
    ];
    let names = short.into_iter().map(str::to_owned).chain(longest);
    names.filter_map(|name| Topic::new(&name).ok()).collect()
}
