//! The running kernel's type information: members whose places are known from elsewhere.

use probe_user::btf::Btf;

pub(super) fn running_kernel() -> Btf {
    Btf::parse(std::fs::read("/sys/kernel/btf/vmlinux").unwrap()).unwrap()
}

#[test]
fn the_running_kernel_is_understood() {
    let btf = running_kernel();
    // `struct list_head` is two pointers, and `pid` and `tgid` of a task are neighbours, in every kernel.
    assert_eq!(btf.offset_of("list_head", "next"), Ok(0));
    assert_eq!(btf.offset_of("list_head", "prev"), Ok(8));
    let pid = btf.offset_of("task_struct", "pid").unwrap();
    assert_eq!(btf.offset_of("task_struct", "tgid"), Ok(pid + 4));
    assert_eq!(btf.member("irqaction", "name").unwrap().size, Some(8));
    let params = btf.raw_tracepoint("irq_handler_entry").unwrap();
    let types: Vec<&str> = params.iter().map(|p| p.type_name.as_str()).collect();
    assert_eq!(types, ["int", "struct irqaction *"]);
    assert!(btf.raw_tracepoint("no_such_event").is_err());
}
