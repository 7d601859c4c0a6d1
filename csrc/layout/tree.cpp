#include "tree.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace hace {
namespace {

constexpr int32_t kOnCycle = -1;  // or below one
constexpr int32_t kUnknown = -2;
constexpr int32_t kWalking = -3;  // on the current walk
constexpr int32_t kNoLabel = std::numeric_limits<int32_t>::max();

// Walks up from each node to the first one of known depth, and sets the depths of the nodes passed.
std::vector<int32_t> find_depths(const int64_t* parents, int64_t num_nodes) {
  std::vector<int32_t> depth(num_nodes, kUnknown);
  std::vector<int64_t> walk;
  for (int64_t start = 0; start < num_nodes; ++start) {
    int64_t node = start;
    walk.clear();
    while (node >= 0 && depth[node] == kUnknown) {
      depth[node] = kWalking;
      walk.push_back(node);
      node = parents[node];
    }
    const bool has_root = node < 0 || depth[node] >= 0;
    int32_t below = node < 0 ? 0 : depth[node] + 1;
    for (auto it = walk.rbegin(); it != walk.rend(); ++it)
      depth[*it] = has_root ? below++ : kOnCycle;
  }
  return depth;
}

// Turns the counts of groups i, stored at counts[i + 1], into CSR bounds.
void accumulate(std::vector<int64_t>& counts) {
  for (size_t i = 1; i < counts.size(); ++i) counts[i] += counts[i - 1];
}

// Roots and children of a forest; siblings are ordered by the smallest class label at or below
// them.
struct Children {
  std::vector<int64_t> roots;
  std::vector<int64_t> ptr;
  std::vector<int64_t> child;
};

// No sort is needed. The nodes whose smallest label is l are a chain that goes up from l's own
// node. Walking up these chains by ascending l meets siblings in their order.
Children order_children(const int64_t* parents, int64_t num_nodes, const int64_t* classes,
                        int64_t num_classes, const std::vector<int32_t>& smallest_label) {
  Children result;
  result.ptr.assign(num_nodes + 1, 0);
  for (int64_t node = 0; node < num_nodes; ++node) {
    if (parents[node] >= 0) ++result.ptr[parents[node] + 1];
  }
  accumulate(result.ptr);
  result.child.resize(result.ptr.back());

  std::vector<int64_t> next(result.ptr.begin(), result.ptr.end() - 1);
  auto append = [&](int64_t node) {
    const int64_t parent = parents[node];
    if (parent < 0) {
      result.roots.push_back(node);
    } else {
      result.child[next[parent]++] = node;
    }
  };
  for (int64_t label = 0; label < num_classes; ++label) {
    for (int64_t node = classes[label]; node >= 0 && smallest_label[node] == label;
         node = parents[node]) {
      append(node);
    }
  }
  for (int64_t node = 0; node < num_nodes; ++node) {
    if (smallest_label[node] == kNoLabel) append(node);
  }
  return result;
}

}  // namespace

Levels find_levels(const int64_t* parents, int64_t num_nodes) {
  Levels levels;
  levels.depth = find_depths(parents, num_nodes);
  const std::vector<int32_t>& depth = levels.depth;

  int32_t deepest = -1;
  for (int32_t d : depth) deepest = std::max(deepest, d);
  levels.level_ptr.assign(static_cast<size_t>(deepest) + 2, 0);
  for (int32_t d : depth) {
    if (d >= 0) ++levels.level_ptr[d + 1];
  }
  accumulate(levels.level_ptr);
  levels.order.resize(levels.level_ptr.back());
  std::vector<int64_t> next(levels.level_ptr.begin(), levels.level_ptr.end() - 1);
  for (int64_t node = 0; node < num_nodes; ++node) {
    if (depth[node] >= 0) levels.order[next[depth[node]]++] = node;
  }
  return levels;
}

Layout lay_out(const int64_t* parents, int64_t num_nodes, const int64_t* classes,
               int64_t num_classes) {
  Layout layout;
  layout.levels = find_levels(parents, num_nodes);
  const std::vector<int64_t>& order = layout.levels.order;
  if (static_cast<int64_t>(order.size()) < num_nodes) {
    throw std::invalid_argument("parents contains a cycle; topological_order leaves its nodes out");
  }

  // Upwards: heights, sizes (in classes) and smallest labels of the subtrees.
  std::vector<int32_t> own_label(num_nodes, kNoLabel);
  for (int64_t label = 0; label < num_classes; ++label) {
    own_label[classes[label]] = static_cast<int32_t>(label);
  }
  std::vector<int32_t> smallest_label = own_label;
  std::vector<int32_t> size(num_nodes);
  for (int64_t node = 0; node < num_nodes; ++node) size[node] = own_label[node] != kNoLabel;
  layout.height.assign(num_nodes, 0);
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    const int64_t node = *it, parent = parents[node];
    if (parent < 0) continue;
    layout.height[parent] = std::max(layout.height[parent], layout.height[node] + 1);
    smallest_label[parent] = std::min(smallest_label[parent], smallest_label[node]);
    size[parent] += size[node];
  }

  Children children = order_children(parents, num_nodes, classes, num_classes, smallest_label);

  // Downwards: each node divides its interval among its children and its own class.
  layout.start.resize(num_nodes);
  layout.stop.resize(num_nodes);
  layout.column.resize(num_classes);
  int32_t position = 0;
  for (int64_t root : children.roots) {
    layout.start[root] = position;
    position += size[root];
  }
  for (int64_t node : order) {
    int32_t label = own_label[node];
    position = layout.start[node];
    layout.stop[node] = position + size[node];
    for (int64_t i = children.ptr[node]; i < children.ptr[node + 1]; ++i) {
      const int64_t child = children.child[i];
      if (label < smallest_label[child]) {
        layout.column[position++] = label;
        label = kNoLabel;
      }
      layout.start[child] = position;
      position += size[child];
    }
    if (label != kNoLabel) layout.column[position] = label;
  }
  for (int64_t i = 0; i < num_classes; ++i) layout.column_is_identity &= layout.column[i] == i;

  layout.child_ptr = std::move(children.ptr);
  layout.child = std::move(children.child);
  return layout;
}

}  // namespace hace
