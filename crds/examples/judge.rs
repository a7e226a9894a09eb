//! Judges the manifests in files as a cluster would, and says how long one took: `cargo run -p bascule-crds --example judge --
//! [--repeat N] FILE…`. Exit status 1 if any is refused, 2 if a file cannot be read.

use std::process::ExitCode;
use std::time::Instant;

use bascule_crds::{manifest, validate};

fn main() -> ExitCode {
    let mut repeat = 1;
    let mut refused = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--repeat" {
            let Some(times) =
                arguments.next().and_then(|times| times.parse().ok()).filter(|times| *times > 0)
            else {
                eprintln!("--repeat wants a number above 0");
                return ExitCode::from(2);
            };
            repeat = times;
            continue;
        }
        let text = match std::fs::read_to_string(&argument) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{argument}: {error}");
                return ExitCode::from(2);
            }
        };
        let documents = match manifest::parse(&text) {
            Ok(documents) => documents,
            Err(error) => {
                println!("{argument}: {error}");
                refused = true;
                continue;
            }
        };
        for document in documents {
            // The first of a kind compiles the rules of the kind.
            let verdict = validate::judge(&document.value);
            let start = Instant::now();
            for _ in 0..repeat {
                let _ = std::hint::black_box(validate::judge(&document.value));
            }
            let each = start.elapsed() / repeat;
            match verdict {
                Ok(object) => {
                    println!("{argument}:{}: {} accepted in {each:?}", document.line, object.reference())
                }
                Err(violations) => {
                    refused = true;
                    for one in violations {
                        println!("{argument}:{}: {one}", document.line_of(&one.path));
                    }
                }
            }
        }
    }
    ExitCode::from(u8::from(refused))
}
