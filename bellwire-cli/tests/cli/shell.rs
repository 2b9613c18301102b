//! `bellwire completions`, `bellwire man`, and the help.

use crate::support::Cli;

const SUBCOMMANDS: [&str; 9] =
    ["call", "listen", "publish", "methods", "monitor", "top", "bench", "serve", "context"];

#[tokio::test]
async fn completions_know_all_subcommands() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = cli.run(&["completions", shell]).await;
        for subcommand in SUBCOMMANDS {
            assert!(script.ok().contains(subcommand), "{shell}: {subcommand}");
        }
        assert!(script.stdout.contains("token-file"), "{shell}");
    }
    cli.run(&["completions", "dcl"]).await.failed(2, &["bash"]);
}

#[tokio::test]
async fn there_is_a_page_for_each_subcommand() {
    let cli = Cli::new();
    let page = cli.run(&["man"]).await;
    assert!(page.ok().contains(".TH bellwire 1") && page.stdout.contains("not sent"), "{page:?}");
    cli.run(&["man", "--dir", "."]).await.ok();
    for subcommand in SUBCOMMANDS {
        let page = cli.run(&["man", subcommand]).await;
        let file = cli.home.path().join(format!("bellwire-{subcommand}.1"));
        assert_eq!(page.ok(), std::fs::read_to_string(file).expect("a page"));
        assert!(page.stdout.contains(&format!(".TH bellwire-{subcommand} 1")), "{subcommand}");
    }
    let nested = cli.run(&["man", "context", "add"]).await;
    assert!(nested.ok().contains(".TH bellwire-context-add 1"), "{nested:?}");
    cli.run(&["man", "nosuch"]).await.failed(2, &["no page bellwire-nosuch"]);
}

#[tokio::test]
async fn help_explains_the_exit_codes() {
    let cli = Cli::new();
    let help = cli.run(&["--help"]).await;
    assert!(help.ok().contains("6    not sent"), "{help:?}");
    for subcommand in ["call", "listen", "publish"] {
        let help = cli.run(&["help", subcommand]).await;
        assert!(help.ok().contains("6    not sent"), "{help:?}");
    }
    cli.run(&["cal"]).await.failed(2, &["call"]);
}
