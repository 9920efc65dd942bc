//! controller: see the modules.
