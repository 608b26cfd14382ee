//! `voxgate`: see `voxgate help`.

use clap::Parser as _;
use voxgate::cli::Cli;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Cli::parse().run().await
}
