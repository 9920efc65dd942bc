//! e2e: see the modules.
