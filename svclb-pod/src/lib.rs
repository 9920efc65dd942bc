//! svclb-pod: see the modules.
