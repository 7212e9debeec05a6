//! What `serve` is to do: flags first, then the configuration file, then defaults.

use super::super::{DEFAULT_STATE_DIR, Globals, log};
use super::Args;
use super::file::{self, File, NotAFile};
use crate::app::{serve::Shape, text_file};
use crate::export::DEFAULT_LISTEN;
use crate::export::families::Fold;
use crate::export::ledger::KEEP;
use std::io;
use std::path::{Path, PathBuf};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {cause}", path.display())]
    Text { path: PathBuf, cause: NotAFile },
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) listen: String,
    pub(super) shape: Shape,
    pub(super) keep_configs: usize,
    pub(super) policy: Option<PathBuf>,
    pub(super) dry_run: bool,
    pub(super) web_config: Option<PathBuf>,
    pub(super) log_format: log::Format,
    /// With the file's say in `-q`, `-v`, `--color` and `--state-dir`.
    pub(super) globals: Globals,
}

impl Settings {
    /// Reads the file, if one was named.
    pub(super) fn read(globals: &Globals, args: &Args) -> Result<Self, SettingsError> {
        let Some(path) = &args.config else {
            return Ok(Self::of(globals, args, File::default(), Path::new("")));
        };
        let text =
            text_file::read(path).map_err(|source| SettingsError::Read { path: path.clone(), source })?;
        let file = file::parse(&text).map_err(|cause| SettingsError::Text { path: path.clone(), cause })?;
        Ok(Self::of(globals, args, file, path.parent().unwrap_or(Path::new(""))))
    }

    /// `folder` is where the file's own paths start.
    fn of(globals: &Globals, args: &Args, file: File, folder: &Path) -> Self {
        let Args { config: _, listen, fold, bounds, keep_configs, policy, dry_run, web_config, log_format } =
            args;
        let Globals { quiet, verbose, color, state_dir } = globals.clone();
        let told = quiet || verbose > 0;
        let fold = if fold.is_empty() { file.fold } else { Some(Fold(fold.iter().copied().collect())) };
        let globals = Globals {
            quiet: if told { quiet } else { file.quiet.unwrap_or(false) },
            verbose: if told { verbose } else { file.verbose.unwrap_or(0) },
            color: color.or(file.color),
            state_dir: Some(state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into())),
        };
        Self {
            listen: listen.clone().or(file.listen).unwrap_or_else(|| DEFAULT_LISTEN.to_owned()),
            shape: Shape {
                fold: fold.unwrap_or_default(),
                bounds: bounds.or(file.bounds).unwrap_or_default(),
            },
            keep_configs: keep_configs.or(file.keep_configs).map_or(KEEP, usize::from),
            policy: policy.clone().or_else(|| file.policy.map(|path| folder.join(path))),
            dry_run: *dry_run || file.dry_run.unwrap_or(false),
            web_config: web_config.clone().or_else(|| file.web_config.map(|path| folder.join(path))),
            log_format: log_format.or(file.log_format).unwrap_or(log::Format::Text),
            globals,
        }
    }

    /// The keys in which `other` differs and which are only heeded at the start.
    pub(super) fn fixed(&self, other: &Self) -> Vec<&'static str> {
        let Self { listen, shape: _, keep_configs, policy, dry_run, web_config, log_format, globals } = self;
        let Globals { quiet, verbose, color, state_dir } = globals;
        let differs = [
            ("listen", *listen != other.listen),
            ("keep-configs", *keep_configs != other.keep_configs),
            ("policy", *policy != other.policy),
            ("dry-run", *dry_run != other.dry_run),
            ("web-config", *web_config != other.web_config),
            ("log-format", *log_format != other.log_format),
            ("quiet", *quiet != other.globals.quiet),
            ("verbose", *verbose != other.globals.verbose),
            ("color", *color != other.globals.color),
            ("state-dir", *state_dir != other.globals.state_dir),
        ];
        differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::export::bounds::Bounds;
    use crate::export::families::FoldLabel;
    use clap::{ColorChoice, Parser};

    fn settings(flags: &[&str], text: &str) -> Settings {
        let cli = Cli::try_parse_from(["vfprobe", "serve"].iter().chain(flags)).unwrap();
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        Settings::of(&cli.globals, &args, file::parse(text).unwrap(), Path::new("/etc/vfprobe"))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let none = settings(&[], "");
        assert_eq!((none.listen.as_str(), none.shape.clone()), (DEFAULT_LISTEN, Shape::default()));
        assert_eq!(none.keep_configs, KEEP);
        assert_eq!(none.globals.state_dir(), Path::new(DEFAULT_STATE_DIR));
        let text = "listen = \"a:1\"\nfold = [\"slot\"]\nbounds = \"fine\"\nkeep-configs = 9\npolicy = \"p.toml\"\nweb-config = \"/w.yml\"\nlog-format = \"json\"\n\
                    verbose = 2\ncolor = \"always\"\nstate-dir = \"/s\"\n";
        let file = settings(&[], text);
        assert_eq!((file.listen.as_str(), file.shape.bounds), ("a:1", Bounds::Fine));
        assert_eq!((file.shape.fold, file.keep_configs), (Fold([FoldLabel::Slot].into()), 9));
        assert_eq!(file.policy.as_deref(), Some(Path::new("/etc/vfprobe/p.toml")));
        assert_eq!(file.web_config.as_deref(), Some(Path::new("/w.yml")));
        assert_eq!(file.log_format, log::Format::Json);
        assert_eq!((file.globals.verbose, file.globals.color()), (2, ColorChoice::Always));
        assert_eq!(file.globals.state_dir(), Path::new("/s"));
        let flags = "--listen b:2 --fold vcpu --bounds normal --keep-configs 0 --policy q --web-config v --log-format text -q --color auto --state-dir /run/vfprobe";
        let both = settings(&flags.split(' ').collect::<Vec<_>>(), text);
        assert_eq!((both.listen.as_str(), both.shape.bounds), ("b:2", Bounds::Normal));
        assert_eq!((both.shape.fold, both.keep_configs), (Fold([FoldLabel::Vcpu].into()), 0));
        assert_eq!(both.policy.as_deref(), Some(Path::new("q")));
        assert_eq!(both.web_config.as_deref(), Some(Path::new("v")));
        assert_eq!(both.log_format, log::Format::Text);
        assert_eq!((both.globals.quiet, both.globals.verbose), (true, 0));
        assert_eq!(both.globals.color(), ColorChoice::Auto);
        assert_eq!(both.globals.state_dir(), Path::new(DEFAULT_STATE_DIR));
    }

    #[test]
    fn what_takes_a_restart() {
        let before = settings(&[], "");
        for (text, keys) in [
            ("", &[] as &[&str]),
            ("bounds = \"fine\"\nfold = [\"slot\"]\n", &[]),
            ("listen = \"127.0.0.1:19817\"\n", &[]),
            ("listen = \"a:1\"\npolicy = \"p\"\n", &["listen", "policy"]),
            ("keep-configs = 4\n", &[]),
            ("keep-configs = 5\n", &["keep-configs"]),
            ("web-config = \"w\"\n", &["web-config"]),
            ("dry-run = true\n", &["dry-run"]),
            (
                "log-format = \"json\"\nverbose = 1\ncolor = \"never\"\nstate-dir = \"/s\"\n",
                &["log-format", "verbose", "color", "state-dir"],
            ),
            ("quiet = true\n", &["quiet"]),
        ] {
            assert_eq!(before.fixed(&settings(&[], text)), keys, "{text:?}");
        }
    }
}
