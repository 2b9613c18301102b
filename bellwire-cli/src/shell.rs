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
    /// The page of this subcommand, as in `man context add`
    subcommand: Vec<String>,
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
            fs::write(&file, page).map_err(|error| {
                of_file("write the page", &file, error).hint("the folder has to be there")
            })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let words = std::iter::once(NAME).chain(args.subcommand.iter().map(String::as_str));
    let name = words.collect::<Vec<_>>().join("-");
    let page = pages(command)?.into_iter().find(|(found, _)| *found == name);
    let (_, page) = page.ok_or_else(|| {
        Failed::usage(format!("there is no page {name}"))
            .hint("`bellwire help` lists the subcommands")
    })?;
    write_bytes(&page);
    Ok(ExitCode::SUCCESS)
}

/// The pages of the command and of all its subcommands, each with its name.
fn pages(command: Command) -> Result<Vec<(String, Vec<u8>)>, Failed> {
    let mut command = command.disable_help_subcommand(true);
    // Gives each subcommand its whole name.
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failed> {
    let name = command.get_display_name().unwrap_or(NAME).to_owned();
    pages.push((name, page(command.clone()).map_err(Failed::other)?));
    command.get_subcommands().try_for_each(|subcommand| add_pages(subcommand, pages))
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}
