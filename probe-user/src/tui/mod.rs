//! The live view: what is shown (`state`), and how it is drawn (`draw`). Knows snapshots only; whoever takes them and
//! reads the keyboard is `cli::top`.

mod draw;
mod state;

pub use draw::draw;
pub use state::{Key, Row, State, Tab};
