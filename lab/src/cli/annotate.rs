//! `bascule-lab annotate`: comments in a capture from elsewhere.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{bad_input, play};
use crate::annotate::{Annotated, Known, Language, annotate, file};
use crate::scenario::resolve;

#[derive(Debug, clap::Args)]
pub(super) struct AnnotateArgs {
    /// A capture: pcap or pcapng, as tcpdump, Wireshark or a run of the lab write it.
    #[arg(value_name = "FILE")]
    capture: PathBuf,
    /// A scenario whose network it is of: gives names to addresses, and tells services from servers.
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Option<String>,
    /// The language of the comments.
    #[arg(long, value_enum, default_value_t)]
    language: Language,
    /// Where the capture with its comments goes; FILE with `.annotated.pcapng` at its end unless told.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes a capture anew, with comments.
pub(super) fn run(args: &AnnotateArgs) -> Result<ExitCode> {
    let mut known = match &args.scenario {
        None => Known::default(),
        Some(name) => match resolve(name) {
            Ok(scenario) => Known::of(&scenario),
            Err(problems) => return Ok(play::tell(&problems)),
        },
    };
    let capture = read(&args.capture)?;
    let out = args.out.clone().unwrap_or_else(|| args.capture.with_extension("annotated.pcapng"));
    if same(&args.capture, &out) {
        return Err(bad_input(format!("{} would be written over itself; give another --out", out.display())));
    }
    file::tell(&capture, &mut known);
    let annotated = annotate(&file::as_ethernet(&capture), &mut known);
    let target = std::fs::File::create(&out).with_context(|| format!("writing {}", out.display()))?;
    let mut target = BufWriter::new(target);
    file::write(&mut target, "annotated by bascule-lab", &capture, &known, |frame| {
        // One that has been annotated already is not told the same again.
        let text = annotated.text(frame, args.language)?;
        let said = capture.packets.get(frame).and_then(|packet| packet.comment.as_deref());
        (said != Some(text.as_str())).then_some(text)
    })
    .and_then(|()| target.flush())
    .with_context(|| format!("writing {}", out.display()))?;
    print!("{}", summary(&annotated));
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<file::Capture> {
    let unreadable = |error| bad_input(format!("{}: {error}", path.display()));
    let source = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    source.take(file::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > file::MAX_BYTES {
        return Err(bad_input(format!(
            "{} is larger than {} MiB; cut it with `editcap -c`",
            path.display(),
            file::MAX_BYTES >> 20
        )));
    }
    file::read(&bytes).map_err(unreadable)
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// How many comments there are of each kind.
fn summary(annotated: &Annotated) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for note in annotated.notes.iter().flatten() {
        *counts.entry(note.kind()).or_default() += 1;
    }
    let commented = annotated.notes.iter().filter(|notes| !notes.is_empty()).count();
    let mut text = format!("{} frames, {commented} with a comment\n", annotated.notes.len());
    for (kind, count) in counts {
        text.push_str(&format!("  {kind:<6} {count}\n"));
    }
    text
}
