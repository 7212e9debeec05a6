//! The lab's tests. A group is a script `tests/lab/<group>.sh`: one boot. It reports by lines (`TEST <name> ok`, see
//! tests/lab/support/lab.sh) and leaves files in /out; when the machine is off, the evaluator `lab_eval` of the
//! `tests` package judges those files: its tests in the module `<group>` run with VFPROBE_LAB_OUT and
//! VFPROBE_LAB_KERNEL set. Knows no single test.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::boot::{Limits, breakdown};
use super::{Kernel, Lab, Options};
use crate::packages::{self, PYTHON};
use crate::process::{cargo, merged_output};
use crate::tally::{Tally, parse_lab_line, parse_libtest};
use crate::workspace::{TESTS_PACKAGE, Workspace};

const EVALUATOR: &str = "lab_eval";
/// Boots a group gets when the emulated machine breaks down.
const ATTEMPTS: u32 = 3;
/// Words for the kernel of a host that systemd runs: nothing of its own on the console, and no questions.
const SYSTEMD: &str = "lab.init=systemd systemd.show_status=0 systemd.getty_auto=0 systemd.firstboot=0";
/// How long a test may run without a word.
const SILENCE: Duration = Duration::from_secs(240);

/// What one boot came to.
struct Boot {
    tally: Tally,
    /// How the emulated machine broke down, if it did.
    trouble: Option<String>,
}

/// A test script and how to boot for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    script: PathBuf,
    settings: Settings,
}

/// What a script asks for by lines `# lab: KEY=VALUE` at its top.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    limit: Duration,
    cpus: u32,
    append: String,
    /// Kernels it runs on, by name; empty for all.
    kernels: Vec<String>,
    /// Whether /share has the packages of vfprobe.
    packages: bool,
    /// Whether what it leaves is judged by SciPy on this machine.
    scipy: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(600),
            cpus: 4,
            append: String::new(),
            kernels: Vec::new(),
            packages: false,
            scipy: false,
        }
    }
}

/// The groups of this checkout, those whose name contains one of `filters` when there are any.
pub(crate) fn groups(workspace: &Workspace, filters: &[String]) -> Result<Vec<Group>> {
    let dir = workspace.root.join("tests/lab");
    let mut groups = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let script = entry?.path();
        if script.extension().is_none_or(|extension| extension != "sh") {
            continue;
        }
        let name = script.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            let text = fs::read_to_string(&script)?;
            let settings = parse_settings(&text).with_context(|| script.display().to_string())?;
            groups.push(Group { name, script, settings });
        }
    }
    groups.sort_by(|left, right| left.name.cmp(&right.name));
    if groups.is_empty() {
        bail!("no script in {} matches {}", dir.display(), filters.join(" or "));
    }
    Ok(groups)
}

fn parse_settings(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let mut append = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(setting) = line.strip_prefix("# lab: ") else { continue };
        let number = index + 1;
        let (key, value) =
            setting.split_once('=').with_context(|| format!("line {number}: `{line}` has no `=`"))?;
        match key {
            "limit" => {
                let seconds = value.parse().with_context(|| format!("line {number}: limit in seconds"))?;
                settings.limit = Duration::from_secs(seconds);
            }
            "cpus" => {
                settings.cpus = value.parse().with_context(|| format!("line {number}: number of CPUs"))?;
            }
            "append" => append.push(value),
            "init" if value == "systemd" => append.push(SYSTEMD),
            "init" => bail!("line {number}: `{value}` is no init (systemd)"),
            "packages" => settings.packages = value == "yes",
            "scipy" => settings.scipy = value == "yes",
            "kernels" => settings.kernels = value.split(',').map(str::to_owned).collect(),
            _ => bail!(
                "line {number}: `{key}` is no setting (limit, cpus, append, init, kernels, packages, scipy)"
            ),
        }
    }
    settings.append = append.join(" ");
    Ok(settings)
}

/// Runs `groups` on `kernel`, one boot after the other. `progress` gets every line of output.
pub(crate) fn run(
    lab: &Lab<'_>,
    kernel: &Kernel,
    groups: &[Group],
    dev: bool,
    progress: &mut dyn FnMut(&str),
) -> Result<Tally> {
    let share = lab.stage_for_tests(dev)?;
    if groups.iter().any(|group| group.settings.packages && group.runs_on(kernel)) {
        lab.stage_packages()?;
    }
    let mut tally = Tally::default();
    for group in groups.iter().filter(|group| group.runs_on(kernel)) {
        progress(&format!("{kernel}: {}", group.name));
        let start = Instant::now();
        let result = group.run(lab, kernel, &share, progress)?;
        let line = format!(
            "{kernel}: {}: {} passed, {} failed, {} skipped, {:.0} s",
            group.name,
            result.passed,
            result.failed.len(),
            result.skipped.len(),
            start.elapsed().as_secs_f64()
        );
        // Where the layer shows nothing but its end, too: a run of all groups takes most of an hour.
        eprintln!("lab: {line}");
        progress(&line);
        tally.add(result.prefixed(&format!("{}::", group.name)));
    }
    Ok(tally)
}

impl Group {
    fn runs_on(&self, kernel: &Kernel) -> bool {
        self.settings.kernels.is_empty() || self.settings.kernels.contains(&kernel.name)
    }

    /// Boots for this group, again when the emulated machine broke down under it: QEMU's emulation of nested
    /// virtualisation now and then kills a guest or stalls a kernel, above all on a busy machine, and what failed
    /// then says nothing of vfprobe. What fails on a machine that holds is a failure at once; and a vfprobe that
    /// breaks machines breaks each of them.
    fn run(
        &self,
        lab: &Lab<'_>,
        kernel: &Kernel,
        share: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Tally> {
        for attempt in 1.. {
            let boot = self.boot(lab, kernel, share, progress)?;
            match boot.trouble {
                Some(trouble) if !boot.tally.failed.is_empty() && attempt < ATTEMPTS => {
                    // On the terminal too: a machine that breaks down every time is worth a look.
                    let mut say = |line: String| {
                        eprintln!("lab: {line}");
                        progress(&line);
                    };
                    let name = &self.name;
                    boot.tally.failed.iter().for_each(|failed| say(format!("not counted: {failed}")));
                    say(format!("{kernel}: {name}: the emulated machine broke down, once more: {trouble}"));
                }
                _ => return Ok(boot.tally),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn boot(
        &self,
        lab: &Lab<'_>,
        kernel: &Kernel,
        share: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Boot> {
        let dir = lab.workspace.target.join("lab/tests").join(&kernel.name).join(&self.name);
        if dir.is_dir() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        let out = dir.join("out");
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        let options = Options {
            share: Some(share.to_owned()),
            out: Some(out.clone()),
            cpus: self.settings.cpus,
            append: self.settings.append.clone(),
            ..Options::default()
        };
        let mut tally = Tally::default();
        let mut output = String::new();
        let limits = Limits { whole: self.settings.limit, silence: Some(SILENCE) };
        let start = Instant::now();
        let ended = lab.run_in(&dir, kernel, &self.script, limits, &options, &mut |line| {
            output.push_str(&format!("{:7.1} {line}\n", start.elapsed().as_secs_f64()));
            progress(line);
            if let Some(result) = parse_lab_line(line) {
                tally.add(result);
            }
        });
        fs::write(dir.join("output.log"), output)?;
        let mut trouble = super::trouble(&out);
        match ended {
            Ok(0) => {}
            Ok(status) => tally.add(Tally::failure(format!(
                "script: exit status {status}; output in {}",
                dir.join("output.log").display()
            ))),
            Err(error) => {
                let text = format!("{error:#}");
                trouble.get_or_insert_with(|| text.lines().next().unwrap_or_default().to_owned());
                tally.add(Tally::failure(format!("boot: {text}")));
            }
        }
        let console = fs::read(dir.join("console.log")).unwrap_or_default();
        let trouble = trouble.or_else(|| breakdown(&String::from_utf8_lossy(&console)).map(str::to_owned));
        tally.add(self.evaluate(lab.workspace, kernel, &out, progress)?);
        if tally.is_empty() {
            tally.add(Tally::failure("script: it reported no test"));
        }
        Ok(Boot { tally, trouble })
    }

    /// Runs the tests of the evaluator's module for this group; no module, no tests.
    fn evaluate(
        &self,
        workspace: &Workspace,
        kernel: &Kernel,
        out: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Tally> {
        if !workspace.test_targets()?.iter().any(|target| target == EVALUATOR) {
            return Ok(Tally::default());
        }
        let evaluator = || {
            let mut command = cargo();
            command.current_dir(&workspace.root);
            command.args(["test", "--locked", "--package", TESTS_PACKAGE, "--test", EVALUATOR, "--"]);
            command
        };
        // By their whole names: libtest takes a filter anywhere in a name, and `serve::` is a part of `observe::`.
        let (status, listed) = merged_output(evaluator().arg("--list"), &mut |_| ())?;
        if !status.success() {
            return Ok(Tally::failure(format!("{EVALUATOR}: {status}: {listed}")));
        }
        let tests = tests_of_module(&listed, &self.name);
        if tests.is_empty() {
            return Ok(Tally::default());
        }
        if self.settings.scipy
            && let Err(error) = packages::ensure_scipy()
        {
            // The test that needs it says so itself.
            progress(&format!("{error:#}"));
        }
        let mut command = evaluator();
        command.args(tests).args(["--exact", "--show-output"]);
        command.env("VFPROBE_LAB_OUT", out).env("VFPROBE_LAB_KERNEL", &kernel.name);
        command.env("VFPROBE_PYTHON", PYTHON);
        let (status, output) = merged_output(&mut command, progress)?;
        let mut tally = parse_libtest(&output);
        if !status.success() && tally.failed.is_empty() {
            tally.add(Tally::failure(format!("{EVALUATOR}: {status}")));
        }
        Ok(tally)
    }
}

/// The tests of `module` in what libtest prints for `--list`.
fn tests_of_module<'a>(listed: &'a str, module: &str) -> Vec<&'a str> {
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| name.split_once("::").is_some_and(|(first, _)| first == module))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_the_tests_of_its_module_and_no_other() {
        let listed =
            "observe::delivery: test\nobserve::exits: test\nserve::scrape: test\n\n3 tests, 0 benchmarks\n";
        assert_eq!(tests_of_module(listed, "observe"), ["observe::delivery", "observe::exits"]);
        assert_eq!(tests_of_module(listed, "serve"), ["serve::scrape"]);
        assert!(tests_of_module(listed, "control").is_empty());
    }

    #[test]
    fn a_script_says_how_to_boot_for_it() {
        let text = "# What it tests.\n# lab: limit=90\n# lab: cpus=8\n# lab: append=isolcpus=2-3 nohz_full=2-3\n\
                    # lab: kernels=6.12\n# lab: init=systemd\n# lab: packages=yes\n# lab: scipy=yes\n. /lab/support/lab.sh\n";
        let settings = parse_settings(text).unwrap();
        assert_eq!(settings.limit, Duration::from_secs(90));
        assert_eq!(settings.cpus, 8);
        assert_eq!(settings.append, format!("isolcpus=2-3 nohz_full=2-3 {SYSTEMD}"));
        assert!(settings.packages && settings.scipy);
        assert_eq!(settings.kernels, ["6.12"]);
        assert_eq!(parse_settings("echo\n").unwrap(), Settings::default());
    }

    #[test]
    fn a_setting_that_does_not_exist_is_an_error_with_its_line() {
        let cases = [
            ("\n# lab: memory=1G\n", "line 2: `memory` is no setting"),
            ("# lab: limit\n", "line 1: `# lab: limit` has no `=`"),
            ("# lab: cpus=many\n", "line 1: number of CPUs"),
            ("# lab: init=runit\n", "line 1: `runit` is no init"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse_settings(text).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
