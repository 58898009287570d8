//! Servers that nobody enrolled and that boot from the network, where the operator wants to be told of them.
//!
//! Such a server is offered the agent with a discovery token. The token is good for one registration, which says what
//! machine it is, and for nothing else: there is no session, so there are no tasks, no image and no user data. A
//! `BareMetalHost` is made of what it said, which waits for an operator's approval, and the server is switched off.
//!
//! [`book`] decides who is offered a token, and whose token counts; [`found`] what becomes of a report. Both are pure.

pub mod book;
pub mod found;

pub use book::{Book, Invite, Limits};
pub use found::{Known, Refusal, Report};
