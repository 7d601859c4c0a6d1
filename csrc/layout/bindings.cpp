// The Python module hace_kernels._layout: NumPy arrays in, NumPy arrays out, no torch.
// hace_kernels/layout.py documents every function, and checks the ranges of its arguments.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cpu/isa.h"
#include "cpu/ranges.h"
#include "paths.h"
#include "ring_words.h"
#include "tree.h"

namespace py = pybind11;

namespace {

constexpr int64_t kMostListed = int64_t{1} << 20;  // classes: a word's number has 16 bits

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <typename T>
int64_t size_of(const Array<T>& array) {
  if (array.ndim() != 1) throw std::invalid_argument("a one-dimensional array is needed");
  return array.size();
}

// Whether ptr is the CSR bounds of groups of `num_entries` entries in all.
bool ptr_bounds(const Array<int64_t>& ptr, int64_t num_entries) {
  const int64_t num_groups = size_of(ptr) - 1;
  bool fits = num_groups >= 0 && ptr.data()[0] == 0 && ptr.data()[num_groups] == num_entries;
  for (int64_t i = 0; fits && i < num_groups; ++i) fits = ptr.data()[i] <= ptr.data()[i + 1];
  return fits;
}

// Gives a vector's memory to NumPy without a copy.
template <typename T>
py::array_t<T> to_numpy(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  std::vector<T>* vector = owner.get();
  py::capsule free_when_done(vector, [](void* v) { delete static_cast<std::vector<T>*>(v); });
  owner.release();
  return py::array_t<T>(static_cast<py::ssize_t>(vector->size()), vector->data(), free_when_done);
}

py::tuple topological_order(const Array<int64_t>& parents) {
  const int64_t num_nodes = size_of(parents);
  const int64_t* data = parents.data();
  hace::Levels levels;
  {
    py::gil_scoped_release release;
    levels = hace::find_levels(data, num_nodes);
  }
  return py::make_tuple(to_numpy(std::move(levels.order)), to_numpy(std::move(levels.level_ptr)));
}

py::tuple lay_out(const Array<int64_t>& parents, const Array<int64_t>& classes) {
  const int64_t num_nodes = size_of(parents), num_classes = size_of(classes);
  const int64_t *parent_data = parents.data(), *class_data = classes.data();
  hace::Layout layout;
  {
    py::gil_scoped_release release;
    layout = hace::lay_out(parent_data, num_nodes, class_data, num_classes);
  }
  py::object column = py::none();
  if (!layout.column_is_identity) column = to_numpy(std::move(layout.column));
  return py::make_tuple(
      to_numpy(std::move(layout.levels.depth)), to_numpy(std::move(layout.height)),
      to_numpy(std::move(layout.levels.order)), to_numpy(std::move(layout.levels.level_ptr)),
      to_numpy(std::move(layout.child_ptr)), to_numpy(std::move(layout.child)),
      to_numpy(std::move(layout.start)), to_numpy(std::move(layout.stop)), column);
}

py::tuple paths(const Array<int64_t>& parents, const Array<int32_t>& depth,
                const Array<int64_t>& nodes, int64_t max_entries) {
  if (size_of(depth) != size_of(parents)) {
    throw std::invalid_argument("depth does not belong to parents");
  }
  const int64_t num_paths = size_of(nodes);
  const int64_t *parent_data = parents.data(), *node_data = nodes.data();
  const int32_t* depth_data = depth.data();
  hace::Paths result;
  {
    py::gil_scoped_release release;
    result = hace::find_paths(parent_data, depth_data, node_data, num_paths, max_entries);
  }
  return py::make_tuple(to_numpy(std::move(result.ptr)), to_numpy(std::move(result.node)));
}

py::tuple compact_paths(const Array<int64_t>& ptr, const Array<int32_t>& start,
                        const Array<int32_t>& stop, const Array<double>& weight,
                        int64_t num_classes, bool keep_full) {
  const int64_t num_paths = size_of(ptr) - 1, num_entries = size_of(start);
  const bool fits = size_of(stop) == num_entries && size_of(weight) == num_entries &&
                    ptr_bounds(ptr, num_entries);
  if (!fits) throw std::invalid_argument("ptr does not bound the entries of start, stop, weight");

  const int64_t* ptr_data = ptr.data();
  const int32_t *start_data = start.data(), *stop_data = stop.data();
  const double* weight_data = weight.data();
  hace::PathTable table;
  {
    py::gil_scoped_release release;
    table = hace::compact_paths(ptr_data, num_paths, start_data, stop_data, weight_data,
                                num_classes, keep_full);
  }
  return py::make_tuple(to_numpy(std::move(table.ptr)), to_numpy(std::move(table.start)),
                        to_numpy(std::move(table.stop)), to_numpy(std::move(table.weight)));
}

py::object ring_words(const Array<int64_t>& ptr, const Array<int32_t>& start,
                      const Array<int32_t>& stop, const py::object& order, int64_t num_classes,
                      int64_t most_words) {
  const int64_t num_paths = size_of(ptr) - 1, num_entries = size_of(start);
  const Array<int32_t> columns = order.is_none() ? Array<int32_t>(0) : order.cast<Array<int32_t>>();
  bool fits = size_of(stop) == num_entries && ptr_bounds(ptr, num_entries) && num_classes >= 0 &&
              num_classes <= kMostListed;
  const int32_t* column_data = order.is_none() ? nullptr : columns.data();
  if (column_data)
    fits = fits && size_of(columns) == num_classes &&
           hace::all_within(column_data, num_classes, 0, num_classes);
  if (!fits)
    throw std::invalid_argument("ptr, start, stop and order are not those of a path table");

  const int64_t* ptr_data = ptr.data();
  const int32_t *start_data = start.data(), *stop_data = stop.data();
  hace::RingWords rings;
  {
    py::gil_scoped_release release;
    rings = hace::ring_words(ptr_data, num_paths, start_data, stop_data, column_data, num_classes,
                             most_words);
  }
  if (rings.ptr.empty()) return py::none();
  return py::make_tuple(to_numpy(std::move(rings.ring)), to_numpy(std::move(rings.ptr)),
                        to_numpy(std::move(rings.word)));
}

}  // namespace

PYBIND11_MODULE(_layout, m) {
  m.doc() = "Tree layout in C++; hace_kernels.layout documents it.";
  m.def("topological_order", &topological_order, py::arg("parents"));
  m.def("lay_out", &lay_out, py::arg("parents"), py::arg("classes"));
  m.def("paths", &paths, py::arg("parents"), py::arg("depth"), py::arg("nodes"),
        py::arg("max_entries"));
  m.def("compact_paths", &compact_paths, py::arg("ptr"), py::arg("start"), py::arg("stop"),
        py::arg("weight"), py::arg("num_classes"), py::arg("keep_full"));
  m.def("ring_words", &ring_words, py::arg("ptr"), py::arg("start"), py::arg("stop"),
        py::arg("order"), py::arg("num_classes"), py::arg("most_words"));
  m.def("cpu_capability", [] { return hace::name_of(hace::best_isa()); });
}
