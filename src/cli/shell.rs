//! `completions` and `man`: what shells and people look up, made from the arguments themselves.

use super::{Exit, Failure, Program};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory; else the program's own page is printed
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

pub fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut program = Program::command();
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Done)
}

pub fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let program = Program::command();
    match &args.dir {
        None => clap_mangen::Man::new(program).render(&mut std::io::stdout())?,
        Some(dir) => pages(program, dir)?,
    }
    Ok(Exit::Done)
}

fn pages(program: clap::Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(program, dir)
}
