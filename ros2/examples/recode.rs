//! Decodes and encodes messages again, for third-party checkers: lines `TYPE HEX` on standard input, lines `HEX` or
//! `error: …` on standard output. Without input it prints nothing; `--list` names the types.

use endplate_ros2::interface::catalogue::CATALOGUE;
use std::io::{BufRead, Write};

fn recode(line: &str) -> Result<String, String> {
    let (name, hex) = line.split_once(' ').ok_or("write TYPE HEX")?;
    let entry = CATALOGUE.iter().find(|entry| entry.ros_name == name).ok_or_else(|| format!("no type {name}"))?;
    let digit = |at: usize| hex.get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digit).collect();
    let mut buffer = Vec::new();
    let written = (entry.recode)(&bytes.ok_or("not hexadecimal")?, &mut buffer).map_err(|error| error.to_string())?;
    Ok(buffer[..written].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--list") {
        for entry in CATALOGUE {
            println!("{} {}", entry.ros_name, entry.hash);
        }
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        match recode(&line?) {
            Ok(hex) => writeln!(out, "{hex}")?,
            Err(error) => writeln!(out, "error: {error}")?,
        }
        out.flush()?;
    }
    Ok(())
}
