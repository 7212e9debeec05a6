//! Starting programs so that a failure says which program, with which arguments, and how it ended.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context, Result, bail};

/// Runs `command` with this terminal's output, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote to standard output, without the last line end.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", shown(command), output.status, stderr.trim());
    }
    let text = String::from_utf8(output.stdout).with_context(|| format!("`{}`", shown(command)))?;
    Ok(text.trim_end().to_owned())
}

/// Runs `command`, gives each line of its output and error output to `line` as it comes, and returns how it ended
/// with all of the text.
pub(crate) fn merged_output(
    command: &mut Command,
    line: &mut dyn FnMut(&str),
) -> Result<(ExitStatus, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let (sender, receiver) = mpsc::channel();
    let out = child.stdout.take().context("the output is piped")?;
    let err = child.stderr.take().context("the error output is piped")?;
    let mut text = String::new();
    thread::scope(|scope| {
        let second = sender.clone();
        scope.spawn(move || send_lines(out, &sender));
        scope.spawn(move || send_lines(err, &second));
        // Ends when both ends of the pipes are closed, which is when the child and its children are gone.
        for next in receiver {
            line(&next);
            text.push_str(&next);
            text.push('\n');
        }
    });
    Ok((child.wait()?, text))
}

/// Sends the lines of `input`, without their ends, until it ends.
pub(crate) fn send_lines(input: impl Read, lines: &Sender<String>) {
    for bytes in BufReader::new(input).split(b'\n').map_while(Result::ok) {
        if lines.send(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned()).is_err() {
            break;
        }
    }
}

/// The cargo that runs xtask, so that the toolchain stays the same.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The first program `name` on PATH.
pub(crate) fn find_on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// `command` as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_program_and_its_words() {
        let error = stdout_of(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("exit status: 3") && text.ends_with("why"), "{text}");
        let error = run(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nonexistent/tool`");
    }

    #[test]
    fn both_outputs_arrive_as_lines() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 4"]);
        let (status, text) = merged_output(&mut command, &mut |line| seen.push(line.to_owned())).unwrap();
        seen.sort();
        assert_eq!((status.code(), seen), (Some(4), vec!["err".to_owned(), "out".to_owned()]));
        assert_eq!(text.len(), "out\nerr\n".len());
    }

    #[test]
    fn output_loses_its_last_line_end() {
        assert_eq!(stdout_of(Command::new("sh").args(["-c", "printf 'a\\nb\\n'"])).unwrap(), "a\nb");
    }
}
