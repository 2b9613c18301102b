//! `bellwire completions` and `bellwire man`: for the shell, and for `man`.

use std::{fs, io, path::PathBuf, process::ExitCode};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{
    args::Args,
    failed::{Failed, of_file},
    print::write_bytes,
};

const NAME: &str = "bellwire";

/// Prints completions for a shell
///
///   bellwire completions bash > /etc/bash_completion.d/bellwire
///   bellwire completions zsh > "${fpath[1]}/_bellwire"
///   bellwire completions fish > ~/.config/fish/completions/bellwire.fish
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the manual page, or writes all pages
///
///   bellwire man | man -l -
///   bellwire man listen | man -l -
///   bellwire man --dir /usr/local/share/man/man1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ManArgs {
    /// The page of this subcommand
    subcommand: Option<String>,
    /// Writes the pages of the command and all its subcommands into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "subcommand")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failed> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), NAME, &mut script);
    write_bytes(&script);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> Result<ExitCode, Failed> {
    let command = Args::command();
    if let Some(folder) = &args.dir {
        for (name, page) in pages(command)? {
            let file = folder.join(format!("{name}.1"));
            fs::write(&file, page).map_err(|error| of_file("write the page", &file, error))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let name = args.subcommand.as_ref().map_or(NAME.into(), |name| format!("{NAME}-{name}"));
    let page = pages(command)?.into_iter().find(|(found, _)| *found == name);
    let (_, page) = page.ok_or_else(|| {
        Failed::usage(format!("there is no page {name}"))
            .hint("`bellwire help` lists the subcommands")
    })?;
    write_bytes(&page);
    Ok(ExitCode::SUCCESS)
}

/// The pages of the command and its subcommands, each with its name.
fn pages(command: Command) -> Result<Vec<(String, Vec<u8>)>, Failed> {
    let subcommands: Vec<_> = command.get_subcommands().cloned().collect();
    let mut pages = vec![(NAME.to_owned(), page(command).map_err(Failed::other)?)];
    for subcommand in subcommands {
        let name = format!("{NAME}-{}", subcommand.get_name());
        let command = subcommand.name(name.clone()).bin_name(name.replace('-', " "));
        pages.push((name, page(command).map_err(Failed::other)?));
    }
    Ok(pages)
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}
