//! The configuration file of `serve`: TOML, one key for each flag. Unknown keys and impossible values are refused with
//! their line.

use super::super::log;
use crate::export::bounds::Bounds;
use crate::export::families::{Fold, FoldLabel};
use crate::plan::line_of;
use clap::{ColorChoice, ValueEnum};
use serde::Deserialize;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use toml::Spanned;

/// A text that configures nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct NotAFile {
    /// Where, counted from 1.
    line: usize,
    /// What is wrong.
    what: String,
}

/// What a file says; what it leaves out is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) fold: Option<Fold>,
    pub(super) bounds: Option<Bounds>,
    pub(super) keep_configs: Option<u8>,
    pub(super) policy: Option<PathBuf>,
    pub(super) dry_run: Option<bool>,
    pub(super) web_config: Option<PathBuf>,
    pub(super) log_format: Option<log::Format>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) quiet: Option<bool>,
    pub(super) verbose: Option<u8>,
    pub(super) color: Option<ColorChoice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    listen: Option<String>,
    fold: Option<Vec<Spanned<String>>>,
    bounds: Option<Spanned<String>>,
    keep_configs: Option<u8>,
    policy: Option<PathBuf>,
    dry_run: Option<bool>,
    web_config: Option<PathBuf>,
    log_format: Option<Spanned<String>>,
    state_dir: Option<PathBuf>,
    quiet: Option<bool>,
    verbose: Option<Spanned<u8>>,
    color: Option<Spanned<String>>,
}

/// Reads a configuration.
pub(super) fn parse(text: &str) -> Result<File, NotAFile> {
    let at = |span, what: String| NotAFile { line: line_of(text, span), what };
    let Text {
        listen,
        fold,
        bounds,
        keep_configs,
        policy,
        dry_run,
        web_config,
        log_format,
        state_dir,
        quiet,
        verbose,
        color,
    } = toml::from_str(text).map_err(|error| at(error.span(), error.message().to_owned()))?;
    let fold = fold.map(|labels| {
        let labels = labels.into_iter().map(|label| value("fold", &label, FoldLabel::from_str, at));
        labels.collect::<Result<_, _>>().map(Fold)
    });
    if let (Some(true), Some(verbose)) = (quiet, verbose.as_ref().filter(|v| *v.as_ref() > 0)) {
        return Err(at(Some(verbose.span()), "verbose: not together with quiet".to_owned()));
    }
    Ok(File {
        listen,
        fold: fold.transpose()?,
        bounds: bounds.map(|text| value("bounds", &text, Bounds::from_str, at)).transpose()?,
        keep_configs,
        policy,
        dry_run,
        web_config,
        log_format: log_format.map(|text| value("log-format", &text, one_of, at)).transpose()?,
        state_dir,
        quiet,
        verbose: verbose.map(Spanned::into_inner),
        color: color.map(|text| value("color", &text, one_of, at)).transpose()?,
    })
}

type Span = Option<std::ops::Range<usize>>;

/// What a key's text means.
fn value<T, E: Display>(
    key: &str,
    text: &Spanned<String>,
    parse: impl Fn(&str) -> Result<T, E>,
    at: impl Fn(Span, String) -> NotAFile,
) -> Result<T, NotAFile> {
    parse(text.as_ref()).map_err(|error| at(Some(text.span()), format!("{key}: {error}")))
}

/// The value of a flag that takes one of a few words.
fn one_of<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let words = T::value_variants().iter().filter_map(T::to_possible_value);
        let words: Vec<String> = words.map(|word| word.get_name().to_owned()).collect();
        format!("{text:?} is none of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use proptest::prelude::*;

    const EXAMPLE: &str = include_str!("../../../../packaging/vfprobe.toml");

    /// The example with every key that it shows in a comment: those stand right behind the `#`.
    fn all_keys() -> String {
        let key = |line: &str| {
            line.strip_prefix('#').filter(|l| l.starts_with(char::is_alphabetic)).map(str::to_owned)
        };
        EXAMPLE.lines().map(|line| key(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
    }

    #[test]
    fn the_example_changes_nothing_and_shows_every_key() {
        assert_eq!(parse(EXAMPLE).unwrap(), File::default());
        let all = all_keys();
        parse(&all).unwrap();
        let shown: toml::Table = toml::from_str(&all).unwrap();
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand("serve").unwrap();
        for flag in serve.get_arguments().filter_map(clap::Arg::get_long) {
            let has_key = shown.contains_key(flag);
            assert_eq!(has_key, !["config", "help", "version"].contains(&flag), "--{flag}");
        }
    }

    #[test]
    fn a_full_file() {
        let text = "listen = \"[::]:9\"\nfold = [\"vcpu\", \"slot\"]\nbounds = \"fine\"\nkeep-configs = 2\npolicy = \"p\"\ndry-run = true\nweb-config = \"w\"\n\
                    log-format = \"json\"\nstate-dir = \"/s\"\nquiet = false\nverbose = 2\ncolor = \"never\"\n";
        let file = File {
            listen: Some("[::]:9".to_owned()),
            fold: Some(Fold([FoldLabel::Slot, FoldLabel::Vcpu].into())),
            bounds: Some(Bounds::Fine),
            keep_configs: Some(2),
            policy: Some("p".into()),
            dry_run: Some(true),
            web_config: Some("w".into()),
            log_format: Some(log::Format::Json),
            state_dir: Some("/s".into()),
            quiet: Some(false),
            verbose: Some(2),
            color: Some(ColorChoice::Never),
        };
        assert_eq!(parse(text).unwrap(), file);
    }

    #[test]
    fn refusals_name_the_line() {
        for (text, line, part) in [
            ("\nlisen = \"x\"\n", 2, "unknown field `lisen`"),
            ("listen = 9\n", 1, "invalid type: integer"),
            ("listen = \"a\"\nlisten = \"b\"\n", 2, "duplicate key"),
            ("fold = [\n  \"vcpu\",\n  \"guest\",\n]\n", 3, "fold: \"guest\" cannot be folded"),
            (
                "bounds = \"all\"\n",
                1,
                "bounds: \"all\" is no set of bounds (expected coarse, normal or fine)",
            ),
            ("#\n#\nlog-format = \"xml\"\n", 3, "log-format: \"xml\" is none of text, json"),
            ("color = \"red\"\n", 1, "color: \"red\" is none of auto, always, never"),
            ("quiet = true\nverbose = 1\n", 2, "verbose: not together with quiet"),
            ("verbose = -1\n", 1, "invalid value"),
            ("\nkeep-configs = 256\n", 2, "invalid value"),
            ("[serve]\n", 1, "unknown field `serve`"),
            ("listen\n", 1, ""),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.what.contains(part), "{text:?}: {error}");
            assert!(!error.what.contains('\n'), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_file_or_an_error(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
