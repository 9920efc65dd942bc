//! svclb-controller: flags, then work.

use std::process::ExitCode;

use clap::Parser;
use svclb_controller::flags::Flags;
use svclb_controller::{logs, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let result = match logs::init(flags.process.log_format, &flags.process.log_level) {
        Ok(()) => run::run(&flags).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svclb-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
