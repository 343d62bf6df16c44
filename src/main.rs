//! Parses arguments, calls the library, maps the error to an exit code.

use std::process::ExitCode;

/// One allocator for the whole process, also under librdkafka: glibc returns large request buffers to the system each time.
#[cfg(not(feature = "memcheck"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if cfg!(feature = "simulation") {
        eprintln!("card-update-worker: built for the simulation, with deliberate bugs; build without the feature");
        return ExitCode::FAILURE;
    }
    card_update_worker::cli::main()
}
