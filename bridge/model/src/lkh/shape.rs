//! Where nodes of a tree stand: in the order from left to right, leaves at even numbers.

/// Levels above the leaves: the ones that a number ends in.
pub(super) fn height(node: u32) -> u32 {
    node.trailing_ones()
}

/// The node of a leaf.
pub(super) fn leaf_node(leaf: u32) -> u32 {
    leaf * 2
}

/// The root of a tree of this height.
pub(super) fn root(height: u32) -> u32 {
    (1 << height) - 1
}

/// The node above.
pub(super) fn parent(node: u32) -> u32 {
    let h = height(node);
    (node | 1 << h) & !(1 << (h + 1))
}

/// The two nodes below; a leaf has none.
pub(super) fn children(node: u32) -> Vec<u32> {
    match height(node) {
        0 => Vec::new(),
        h => vec![node ^ (1 << (h - 1)), node ^ (0b11 << (h - 1))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_keep_their_places_when_the_tree_grows() {
        assert_eq!((height(0), height(1), height(3), height(5)), (0, 1, 2, 1));
        assert_eq!((parent(0), parent(2), parent(1), parent(5), parent(4)), (1, 1, 3, 3, 5));
        assert_eq!((children(3), children(5), children(7)), (vec![1, 5], vec![4, 6], vec![3, 11]));
        assert_eq!((root(1), root(2), root(22)), (1, 3, 0x3f_ffff));
        for node in 0..1000 {
            assert!(children(node).iter().all(|c| parent(*c) == node));
        }
    }
}
